"""Every kind of network of the paper learns: small ones by heart, the deepest at least a little."""

from dataclasses import replace
from itertools import repeat

import pytest
import torch
from torch import Tensor

from residual.models.registry import build
from residual.models.resnet import NETWORKS
from residual.tasks.classification.loop import start, train
from residual.tasks.classification.recipe import CIFAR
from residual.training.loop import Step

BY_HEART = {  # name: (pixels on a side, rate, most steps)
    "resnet8": (8, 0.1, 60),
    "plain8": (8, 0.1, 60),
    "resnet8-B": (8, 0.1, 60),
    "resnet8-C": (8, 0.1, 60),
    "resnet20": (8, 0.1, 60),
    "resnet20-B": (8, 0.1, 60),
    "plain20": (8, 0.05, 80),
    "resnet32": (8, 0.1, 60),
    "plain32": (8, 0.05, 80),
    "resnet44": (8, 0.05, 60),
    "resnet56": (8, 0.05, 60),
    "resnet110": (8, 0.05, 60),
    "resnet18": (32, 0.05, 30),
    "resnet18-A": (32, 0.05, 30),
    "plain18": (32, 0.05, 30),
    "resnet50": (32, 0.02, 30),
}
A_LITTLE = ("plain44", "plain56", "plain110", "resnet110-B", "resnet50-v1.5")


def pictures(side: int, classes: int) -> tuple[Tensor, Tensor]:
    """32 pictures of noise, whose classes can only be learnt by heart."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(32, 3, side, side, generator=draw), torch.arange(32) % classes


def learning(name: str, side: int, lr: float, steps: int, classes: int = 10) -> list[Step]:
    """The steps until no picture is wrong, or so many."""
    torch.manual_seed(0)
    recipe = replace(
        CIFAR, network=name, batch=32, norm_group=32, lr=lr, steps=steps, drops=(), weight_decay=0
    )
    taken = []
    run = start(build(name, classes), recipe)
    for step in train(run, repeat(pictures(side, classes)), recipe):
        taken.append(step)
        if not int(step.wrong):
            break
    return taken


@pytest.mark.parametrize("name", BY_HEART)
def test_a_network_fits_32_pictures_to_zero_training_error(name):
    side, lr, steps = BY_HEART[name]
    assert int(learning(name, side, lr, steps)[-1].wrong) == 0


@pytest.mark.parametrize("name", A_LITTLE)
def test_the_loss_of_a_deep_network_falls_within_a_few_steps(name):
    taken = learning(name, side=8, lr=0.01, steps=24)
    assert float(taken[-1].loss) < float(taken[0].loss)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_each_picture_a_score_for_each_class(name):
    with torch.device("meta"):
        net = build(name, 7)
        assert net(torch.randn(2, 3, 32, 32)).shape == (2, 7)
