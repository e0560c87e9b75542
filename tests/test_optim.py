"""Schedules and the moving average agree with torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel

from residual.training.optim import (
    cosine,
    drops_by_plateau,
    ema_decay,
    start_average,
    update_average,
)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


def moved(net: nn.Module, seed: int) -> None:
    """Other weights and other statistics, as after a step."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    net(torch.randn(5, 3, 8, 8))


def test_it_agrees_with_the_average_that_torchvisions_recipe_takes():
    net = small()
    average = start_average(net)

    def weighted(mean, now, _):
        return 0.9 * mean + 0.1 * now

    theirs = AveragedModel(net, avg_fn=weighted, use_buffers=True)
    theirs.update_parameters(net)  # its first update copies
    for seed in range(1, 6):
        moved(net, seed)
        update_average(average, net, 0.9)
        theirs.update_parameters(net)
    for name, expected in theirs.module.state_dict().items():
        if expected.is_floating_point():
            assert torch.allclose(average[name], expected, atol=1e-6), name


def test_statistics_are_averaged_and_counts_are_copied():
    net = small()
    average = start_average(net)
    before = average["1.running_var"].clone()
    moved(net, 1)
    update_average(average, net, 0.75)
    now = net.state_dict()
    expected = 0.75 * before + 0.25 * now["1.running_var"]
    assert torch.allclose(average["1.running_var"], expected)
    assert average["1.num_batches_tracked"] == now["1.num_batches_tracked"] == 1


def test_the_start_is_a_copy_and_updates_are_in_place():
    net = small()
    average = start_average(net)
    tensors = dict(average)
    weights = copy.deepcopy(net.state_dict())
    moved(net, 1)
    assert all(torch.equal(average[name], weights[name]) for name in weights)
    update_average(average, net, 0.0)
    assert all(average[name] is tensors[name] for name in tensors)
    assert all(torch.equal(average[name], value) for name, value in net.state_dict().items())
    net.load_state_dict(average)  # by its own names


def test_the_published_decay_is_meant_for_one_image_and_one_epoch():
    assert ema_decay(0.99998, 1024, 32, 600) == pytest.approx(1 - 2e-5 * 1024 * 32 / 600)
    assert ema_decay(0.9, 1024, 32, 1) == 0.0


def optimizer(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def test_warm_up_and_cosine_agree_with_torch():
    sgd = optimizer(0.5)
    warmup = LinearLR(sgd, start_factor=0.01, total_iters=5)
    both = SequentialLR(sgd, [warmup, CosineAnnealingLR(sgd, T_max=35)], milestones=[5])
    for step in range(40):
        assert cosine(step, 40, 0.5, 5, 0.01) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        both.step()


def test_the_cosine_begins_at_the_rate_and_ends_at_nothing():
    assert cosine(0, 100, 0.5, 0, 0.01) == 0.5
    assert cosine(0, 100, 0.5, 5, 0.01) == pytest.approx(0.005)
    assert cosine(5, 100, 0.5, 5, 0.01) == 0.5
    assert cosine(50, 100, 0.5, 0, 0.01) == pytest.approx(0.25)
    assert cosine(100, 100, 0.5, 5, 0.01) == pytest.approx(0, abs=1e-12)


def test_a_training_that_is_all_warm_up_has_a_rate():
    assert [cosine(step, 2, 0.5, 2, 0.5) for step in range(3)] == [0.25, 0.375, 0.5]


def test_plateaus_agree_with_torch():
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(60, generator=draw) * 4
    errors = (80 * 0.9 ** torch.arange(60) + noise).tolist()
    sgd = optimizer(1.0)
    theirs = ReduceLROnPlateau(sgd, patience=2, threshold=0, eps=0)
    seen = set()
    for n, error in enumerate(errors, 1):
        theirs.step(error)
        drops = drops_by_plateau(errors[:n], patience=3)
        assert sgd.param_groups[0]["lr"] == pytest.approx(0.1**drops)
        seen.add(drops)
    assert len(seen) > 3


def test_the_rate_drops_after_so_many_looks_without_a_gain():
    assert drops_by_plateau([], 2) == 0
    assert drops_by_plateau([50, 40, 41], 2) == 0
    assert drops_by_plateau([50, 40, 41, 40], 2) == 1  # to be as good is no gain
    assert drops_by_plateau([50, 40, 41, 40, 39, 39, 39], 2) == 2
    assert drops_by_plateau([50, float("nan"), float("nan")], 2) == 1
