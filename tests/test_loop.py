"""What loop.py claims: Section 3.4's training loop, beside one so plain that it is right."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.data.loader import training_batches
from residual.data.normalization import per_pixel_mean
from residual.data.sampler import DataConfig
from residual.data.sources import digits
from residual.models.registry import build
from residual.tasks.classification.loop import start, train
from residual.tasks.classification.recipe import CIFAR, ClassificationRecipe, learning_rate
from residual.training.batchnorm import GhostBatchNorms
from residual.training.loop import StepOptions

TEN = replace(
    CIFAR, network="resnet8", batch=16, norm_group=16, steps=10, drops=(5, 8), warmup=(2, 0.01)
)


def network(name: str = "resnet8") -> nn.Module:
    torch.manual_seed(0)
    return build(name).double()


def batches(recipe: ClassificationRecipe, step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    images = digits().train
    for x, y in training_batches(
        images,
        per_pixel_mean(images),
        DataConfig(batch=recipe.batch, seed=0, padding=1),
        step,
    ):
        yield x.double(), y


def plain_loop(net: nn.Module, recipe: ClassificationRecipe) -> list[float]:
    """SGD as every textbook has it, on whole batches."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others}],
        lr=recipe.lr,
        momentum=recipe.momentum,
    )
    losses = []
    for step, (x, y) in enumerate(islice(batches(recipe), recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad()
        if recipe.norm_group == recipe.batch:
            loss = F.cross_entropy(net(x), y)
            loss.backward()
        else:
            loss = on_many_devices(net, x.split(recipe.norm_group), y.split(recipe.norm_group))
        optimizer.step()
        losses.append(loss.item())
    return losses


def on_many_devices(net: nn.Module, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """A copy of the network looks at each group; gradients and statistics are their means."""
    copies = [deepcopy(net) for _ in images]
    losses = [F.cross_entropy(n(x), y) for n, x, y in zip(copies, images, labels, strict=True)]
    for loss in losses:
        loss.backward()
    for own, *theirs in zip(net.parameters(), *(n.parameters() for n in copies), strict=True):
        own.grad = torch.stack([parameter.grad for parameter in theirs]).mean(dim=0)
    for own, *theirs in zip(net.buffers(), *(n.buffers() for n in copies), strict=True):
        own.copy_(torch.stack([statistic.double() for statistic in theirs]).mean(dim=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", ["resnet8", "plain8", "resnet8-B"])
@pytest.mark.parametrize("norm_group", [16, 8, 4])
def test_ten_steps_equal_those_of_a_plain_loop_to_1e_9(name, norm_group):
    recipe = replace(TEN, network=name, norm_group=norm_group)
    plain, run = network(name), start(network(name), recipe)
    expected = plain_loop(plain, recipe)
    losses = [float(step.loss) for step in train(run, batches(recipe), recipe)]
    assert losses == pytest.approx(expected, abs=1e-6)  # the sum of the loss is in float32
    theirs = dict(plain.state_dict())
    for key, ours in run.net.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert (ours - theirs[key]).abs().max() < 1e-9, key


def test_the_size_of_the_norm_group_changes_the_answer():
    def weights(norm_group: int) -> Tensor:
        recipe = replace(TEN, norm_group=norm_group)
        run = start(network(), recipe)
        list(train(run, batches(recipe), recipe))
        return run.net.fc.weight

    assert (weights(16) - weights(4)).abs().max() > 1e-4


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
@pytest.mark.parametrize("at_once", [8, 24])
def test_running_statistics_move_once_by_a_tenth_toward_the_mean_over_the_groups(groups, at_once):
    x = torch.randn(8 * groups, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    norm = nn.Sequential(nn.BatchNorm2d(3).double())
    norms = GhostBatchNorms(norm, 8)
    norms.begin_step()
    out = []
    for part in x.split(at_once):
        out.append(norm(part))
        norms.accumulate(1 / groups)
    norms.update_running()
    means = torch.stack([part.mean(dim=(0, 2, 3)) for part in x.chunk(groups)]).mean(dim=0)
    variances = torch.stack([part.var(dim=(0, 2, 3)) for part in x.chunk(groups)]).mean(dim=0)
    assert torch.allclose(norm[0].running_mean, 0.1 * means, rtol=0, atol=1e-12)
    assert torch.allclose(norm[0].running_var, 0.9 + 0.1 * variances, rtol=0, atol=1e-12)
    plain = torch.cat([nn.BatchNorm2d(3).double()(part) for part in x.chunk(groups)])
    assert torch.allclose(torch.cat(out), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at_once", [4, 8, 16])
def test_how_many_images_pass_at_once_changes_nothing(at_once):
    recipe = replace(TEN, norm_group=4)
    runs = [start(network(), recipe) for _ in range(2)]
    for run, images in zip(runs, (4, at_once), strict=True):
        list(train(run, batches(recipe), recipe, StepOptions(images=images)))
    ours, theirs = (run.net.state_dict() for run in runs)
    assert all((ours[key] - theirs[key]).abs().max() < 1e-9 for key in ours)


def refusing(net: nn.Module, more_than: int) -> list[int]:
    """A network whose memory does not hold so many images -> how many came each time."""
    came: list[int] = []

    def check(_: nn.Module, inputs: tuple[Tensor]) -> None:
        came.append(len(inputs[0]))
        if len(inputs[0]) > more_than and len(came) % 2 == 0:  # not at the first part of the step
            raise torch.OutOfMemoryError("CUDA out of memory")

    net.conv3_x.register_forward_pre_hook(check)
    return came


def test_a_batch_that_does_not_fit_is_halved_and_loses_no_step():
    recipe = replace(TEN, norm_group=4)
    plain, run = (start(network(), recipe) for _ in range(2))
    list(train(plain, batches(recipe), recipe))
    came = refusing(run.net, more_than=4)
    steps = list(train(run, batches(recipe), recipe, StepOptions(images=8)))
    assert [step.images for step in steps] == [4] * 10 and came[:4] == [8, 8, 4, 4]
    ours, theirs = run.net.state_dict(), plain.net.state_dict()
    assert all((ours[key] - theirs[key]).abs().max() < 1e-9 for key in ours)


def test_a_norm_group_that_does_not_fit_ends_the_training():
    recipe = replace(TEN, norm_group=16)
    run = start(network(), recipe)
    came = refusing(run.net, more_than=8)
    with pytest.raises(torch.OutOfMemoryError):
        list(train(run, batches(recipe), recipe))
    assert came == [16, 16] and run.step == 1


def test_a_step_tells_its_rate_its_loss_and_what_was_wrong_before_it():
    recipe = replace(TEN, steps=1, drops=(), warmup=(0, 0.01))
    net, (x, y) = network(), next(batches(recipe))
    scores = network().train()(x)
    (step,) = train(start(net, recipe), batches(recipe), recipe)
    assert (step.number, step.lr, step.batch_size) == (1, 0.1, 16)
    assert int(step.wrong) == sum(
        int(best) != int(label) for best, label in zip(scores.argmax(dim=1), y, strict=True)
    )
    assert float(step.loss) == pytest.approx(F.cross_entropy(scores, y).item(), abs=1e-6)
    assert not step.loss.requires_grad


def test_the_rate_of_each_step_is_that_of_the_schedule():
    steps = list(train(start(network(), TEN), batches(TEN), TEN))
    assert [step.number for step in steps] == list(range(1, 11))
    rates = [0.01] * 2 + [0.1] * 3 + [0.01] * 3 + [0.001] * 2
    assert [step.lr for step in steps] == pytest.approx(rates)


def test_weight_decay_is_on_weights_and_on_nothing_else():
    net = network()
    groups = start(net, TEN).optimizer.param_groups
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for group in groups:
        decayed = group["weight_decay"] == 1e-4
        assert all((p.ndim in (2, 4)) == decayed for p in group["params"])
    assert {names[id(p)] for group in groups for p in group["params"]} == set(names.values())


def test_all_but_the_last_layer_learns_at_a_share_of_the_rate():
    recipe = replace(TEN, backbone_rate=0.1, warmup=(0, 0.1), drops=())
    run = start(network(), recipe)
    next(train(run, batches(recipe), recipe))
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    assert rates[id(run.net.fc.weight)] == rates[id(run.net.fc.bias)] == pytest.approx(0.1)
    assert rates[id(run.net.conv1[0][0].weight)] == pytest.approx(0.01)


def test_frozen_statistics_stay_as_they_are():
    recipe = replace(TEN, frozen=True)
    run = start(network(), recipe)
    before = {k: v.clone() for k, v in run.net.state_dict().items()}
    list(train(run, batches(recipe), recipe))
    for key, now in run.net.state_dict().items():
        assert torch.equal(now, before[key]) == ("running" in key or "num_batches" in key), key


def test_a_loop_that_stops_and_goes_on_takes_the_same_steps():
    whole, parts = start(network(), TEN), start(network(), TEN)
    expected = [float(step.loss) for step in train(whole, batches(TEN), TEN)]
    losses = []
    for step in train(parts, batches(TEN), TEN):
        losses.append(float(step.loss))
        if step.number == 4:
            break
    losses += [float(step.loss) for step in train(parts, batches(TEN, step=4), TEN)]
    assert losses == expected
    assert parts.step == 10


def test_a_run_that_is_over_takes_no_step_and_needs_no_batch():
    run = start(network(), TEN)
    run.step = 10
    assert not list(train(run, iter(()), TEN))


def test_the_network_is_trained_in_training_mode():
    run = start(network().eval(), TEN)
    next(train(run, batches(TEN), TEN))
    assert run.net.training
