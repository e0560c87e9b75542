"""The training loop of Section 3.4, for any task. It yields after each step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from residual.distributed import World
from residual.training.batchnorm import GhostBatchNorms
from residual.training.dropout import Dropouts

Batch = TypeVar("Batch")
Net = TypeVar("Net", bound=nn.Module)


@dataclass
class Learner(Generic[Net]):
    """A network while it learns."""

    net: Net
    optimizer: torch.optim.Optimizer
    dropouts: Dropouts
    norms: GhostBatchNorms = field(default_factory=lambda: GhostBatchNorms(nn.Sequential(), 1))
    limits: tuple[tuple[nn.Parameter, float], ...] = ()  # weights (filters, ...), the norm of each
    step: int = 0


@dataclass(frozen=True)
class Step:
    """What a step did, over all processes. Tensors are on their device; asking for a value waits
    for it."""

    number: int
    lr: float
    loss: Tensor  # mean over the batch
    wrong: Tensor | None  # images of the batch whose best score, before the step, was another class
    seen: int
    images: int  # that passed at once
    parts: Tensor | None = None  # of the loss, (P,)
    ends_phase: bool = False


def train(
    learner: Learner[Net],
    batches: Iterator[Batch],
    until: int,
    rates: Callable[[int], tuple[float, float]],
    gradients: Callable[[Batch], Tensor],
    world: World,
) -> Iterator[tuple[float, Tensor]]:
    """Take the steps up to one, one at a time. Batches are this process's part.

    `rates` gives learning rate and momentum of the step after so many; `gradients` gathers those of
    the mean loss over a batch, and returns values (k,). With each step come its learning rate and
    the mean of the values over all processes.
    """
    while learner.step < until:
        batch = next(batches)
        learner.net.train()
        lr, momentum = rates(learner.step)
        for group in learner.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if "nesterov" in group:  # rmsprop has a momentum of its own, of 0
                group["momentum"] = momentum
        learner.dropouts.begin(learner.step)
        try:
            values = gradients(batch)
            # Parameters of what does not learn have no gradients, in any process.
            gathered = [p.grad for p in learner.net.parameters() if p.grad is not None]
            world.average([*gathered, *learner.norms.gathered, values])
            learner.norms.move()
        finally:
            learner.norms.end()
            learner.dropouts.end()
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        with torch.no_grad():
            for weight, norm in learner.limits:
                weight.copy_(torch.renorm(weight, 2, 0, norm))
        learner.step += 1
        yield lr, values
