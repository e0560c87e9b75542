"""What batchnorm.py claims: each group by itself, and true statistics over all images together."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import FORK
from torch import Tensor, nn

from residual.distributed import World
from residual.models.registry import build
from residual.training.batchnorm import GhostBatchNorms, precise_statistics

ALONE = World()

STEPS, BATCH = 5, 16


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet8").double()


def images() -> Tensor:
    """Of all steps, (N, 3, 32, 32); groups differ much in their means."""
    draw = torch.Generator().manual_seed(1)
    light = torch.randn(STEPS * BATCH, 3, 1, 1, generator=draw, dtype=torch.float64)
    return torch.randn(STEPS * BATCH, 3, 32, 32, generator=draw, dtype=torch.float64) + 2 * light


def batches(world: World = ALONE) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in images().split(BATCH):
        part = batch.chunk(world.size)[world.rank]
        yield part, torch.zeros(len(part), dtype=torch.int64)


def measured(group: int, world: World = ALONE) -> nn.Module:
    net = network()
    precise_statistics(net, GhostBatchNorms(net, group), batches(world), STEPS, nullcontext, world)
    return net


def first(net: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Its first convolution and normalization."""
    conv = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    return conv, next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("group", [16, 8, 4])
def test_true_statistics_are_the_mean_and_variance_over_all_images(group):
    conv, norm = first(measured(group))
    seen = conv(images())
    assert torch.allclose(norm.running_mean, seen.mean(dim=(0, 2, 3)), rtol=1e-9)
    assert torch.allclose(norm.running_var, seen.var(dim=(0, 2, 3), correction=0), rtol=1e-9)


def test_later_layers_see_the_images_as_training_does():
    """By hand: a net of two normalizations, in its training mode; the second sees few numbers."""
    torch.manual_seed(0)
    one, two = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    net = nn.Sequential(one, nn.ReLU(), nn.AdaptiveAvgPool2d(1), two)
    precise_statistics(net, GhostBatchNorms(net, 8), batches(), STEPS, nullcontext, World())
    seen = [F.relu(F.batch_norm(x, None, None, training=True)) for x in images().split(8)]
    few = torch.cat(seen).mean(dim=(2, 3))
    assert torch.allclose(two.running_mean, few.mean(dim=0), rtol=1e-9)
    assert torch.allclose(two.running_var, few.var(dim=0, correction=0), rtol=1e-9)


def test_measuring_changes_statistics_and_nothing_else():
    before, net = network(), measured(8)
    assert not net.training
    for (name, old), new in zip(
        before.state_dict().items(), net.state_dict().values(), strict=True
    ):
        assert torch.equal(old, new) != name.endswith(("running_mean", "running_var")), name


def part(rank: int, place: str) -> None:
    """In a process of its own: the statistics, as this process has them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2
    )
    torch.save(measured(8, World(rank, 2)).state_dict(), f"{place}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path: Path):
    processes = [FORK.Process(target=part, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    alone = measured(8).state_dict()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.allclose(found[name], alone[name], rtol=1e-9) for name in alone)


def test_each_group_is_normalised_by_itself_and_running_statistics_move_once():
    net = nn.Sequential(nn.BatchNorm2d(3).double())
    norms, x = GhostBatchNorms(net, 4), images()[:BATCH]
    norms.begin_step()
    y = net(x)
    norms.accumulate(4 / BATCH)
    expected = torch.cat([F.batch_norm(p, None, None, training=True) for p in x.split(4)])
    assert torch.allclose(y, expected)
    assert (net[0].running_mean == 0).all()  # a step that fails moves nothing
    norms.update_running()
    means = torch.stack([p.mean(dim=(0, 2, 3)) for p in x.split(4)]).mean(dim=0)
    variances = torch.stack([p.var(dim=(0, 2, 3)) for p in x.split(4)]).mean(dim=0)
    assert torch.allclose(net[0].running_mean, 0.1 * means)
    assert torch.allclose(net[0].running_var, 0.9 + 0.1 * variances)


def test_normalizations_without_weights_or_statistics_are_grouped_as_well():
    norms = nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, affine=False)
    with torch.no_grad():
        norms[0].bias.fill_(2.0)  # what the second one sees has this mean
    net, x = nn.Sequential(*norms).double(), images()[:BATCH]
    ghosts = GhostBatchNorms(net, 4)
    ghosts.begin_step()
    y = net(x)
    assert torch.allclose(
        y[:4],
        F.batch_norm(F.batch_norm(x[:4], None, None, training=True), None, None, training=True),
    )
    ghosts.accumulate(4 / BATCH)
    ghosts.update_running()
    assert net[0].running_mean is None
    assert torch.allclose(net[1].running_mean, y.new_full((3,), 0.1 * 2.0))
    precise_statistics(net, GhostBatchNorms(net, 4), batches(), STEPS, nullcontext, ALONE)
    assert torch.allclose(net[1].running_mean, y.new_full((3,), 2.0))


class Rare(nn.Module):
    """A normalization with a momentum of its own, one without a pass, and dropout by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.never = nn.BatchNorm2d(3, momentum=0.01), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.slow(F.dropout(x, 0.5, self.training)), 0.5, self.training)


def test_a_normalization_has_its_momentum_and_may_have_no_pass():
    net, x = Rare().double(), images()[:BATCH]
    norms = GhostBatchNorms(net, 4)
    net.training = False  # no dropout
    norms.begin_step()
    for part in x.split(8):
        net(part)
        norms.accumulate(4 / BATCH, 2)
    norms.update_running()
    assert torch.allclose(net.slow.running_mean, 0.01 * x.mean(dim=(0, 2, 3)))
    precise_statistics(net, GhostBatchNorms(net, 4), batches(), STEPS, nullcontext, ALONE)
    assert torch.allclose(net.slow.running_mean, images().mean(dim=(0, 2, 3)))
    assert net.never.running_mean.eq(0).all() and net.never.running_var.eq(1).all()


def test_precise_statistics_are_those_of_inference_without_dropout():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).double()
    state = torch.get_rng_state()
    precise_statistics(net, GhostBatchNorms(net, 4), batches(), STEPS, nullcontext, ALONE)
    assert torch.allclose(net[1].running_mean, images().mean(dim=(0, 2, 3)), rtol=1e-9)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_statistics_normalise_and_stay():
    net = nn.Sequential(nn.BatchNorm2d(3).double()).train()
    net[0].running_mean.fill_(0.5)
    norms, x = GhostBatchNorms(net, 4, frozen=True), images()[:BATCH]
    norms.begin_step()
    assert torch.allclose(net(x), (x - 0.5) / (1 + 1e-5) ** 0.5)
    norms.accumulate(4 / BATCH)
    norms.update_running()
    assert (net[0].running_mean == 0.5).all() and (net[0].running_var == 1).all()
