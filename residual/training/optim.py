"""Learning-rate schedules, and the exponential moving average of the weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def cosine(step: int, steps: int, lr: float, warmup_steps: int, start_factor: float) -> float:
    """The learning rate after `step` steps: a linear warm-up, then half a cosine down to 0."""
    # Choice: the learning rate changes at each step; in torchvision's recipe at each epoch.
    if step < warmup_steps:
        return lr * (start_factor + (1 - start_factor) * step / warmup_steps)
    decay_steps = max(1, steps - warmup_steps)
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / decay_steps))


# Choice: "divided by 10 when the error plateaus" (Sec. 3.4) does not define a plateau. Ours is
# `patience` validations in a row without a new lowest error. After a drop the count restarts; the
# lowest error stays.
def drops_by_plateau(errors: Sequence[float], patience: int) -> int:
    """The number of drops of the learning rate, given all validation errors so far."""
    best, waited, drops = math.inf, 0, 0
    for error in errors:
        if error < best:
            best, waited = error, 0
        else:
            waited += 1
        if waited == patience:
            waited, drops = 0, drops + 1
    return drops


def start_average(net: nn.Module) -> dict[str, Tensor]:
    """The average before its first update: copies of all weights and batch-norm statistics."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


@torch.no_grad()
def update_average(average: dict[str, Tensor], net: nn.Module, decay: float) -> None:
    """Move the average toward the network, in place. A decay of 0 copies the network.

    Statistics are averaged like weights, as torchvision does; integers are copied.
    """
    state = net.state_dict()
    floats = [name for name, value in average.items() if value.is_floating_point()]
    move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    move([average[name] for name in floats], [state[name] for name in floats], 0)
    for name in average.keys() - set(floats):
        average[name].copy_(state[name])


def ema_decay(decay: float, batch: int, every: int, epochs: float) -> float:
    """The decay of each update, one in `every` steps.

    The published decay, 0.99998, is for one image and one epoch: torchvision (after pycls)
    multiplies its distance from 1 by the images of an update over the epochs. For 1024 images, 32
    steps and 600 epochs it is 0.9989.
    """
    return 1 - min(1.0, (1 - decay) * batch * every / epochs)
