"""The moving average of weights and statistics agrees with torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from residual.training.optim import ema_decay, start_average, update_average


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
