"""Averages of a network's weights while it learns."""

import torch
from torch import Tensor, nn


def started(net: nn.Module) -> dict[str, Tensor]:
    """The average before the first step: the weights and statistics themselves."""
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def update(average: dict[str, Tensor], net: nn.Module, decay: float) -> None:
    """Move the average toward the network, in place."""
    state = net.state_dict()
    names = [name for name, tensor in average.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in names], [state[n] for n in names], 1 - decay)
