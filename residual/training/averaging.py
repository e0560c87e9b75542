"""The exponential moving average of a network while it learns, as in torchvision's later recipe."""

import torch
from torch import Tensor, nn


def started(net: nn.Module) -> dict[str, Tensor]:
    """The average after no update: copies of all weights and batch-norm statistics, by name."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


@torch.no_grad()
def update(average: dict[str, Tensor], net: nn.Module, decay: float) -> None:
    """Move the average, in place, toward the network. With a decay of 0 it becomes the network.

    Statistics are averaged like weights, as torchvision does; what counts (integers) is copied.
    """
    now = net.state_dict()
    real = [name for name, value in average.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in real], [now[name] for name in real], 1 - decay)
    for name in average.keys() - set(real):
        average[name].copy_(now[name])


def decay_of_update(decay: float, batch: int, every: int, epochs: float) -> float:
    """The decay of each update, of which there is one in `every` steps.

    What is published, 0.99998, is for one image and one epoch: torchvision (after pycls) multiplies
    its distance from 1 by the images of an update over the epochs. For 1024 images, 32 steps and
    600 epochs it is 0.9989.
    """
    return 1 - min(1.0, (1 - decay) * batch * every / epochs)
