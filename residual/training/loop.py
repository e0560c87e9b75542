"""The training loop of Sec. 3.4, for any task. It yields after each step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
    """A network in training, with its optimizer."""

    net: Net
    optimizer: torch.optim.Optimizer
    dropouts: Dropouts
    norms: GhostBatchNorms = field(default_factory=lambda: GhostBatchNorms(nn.Sequential(), 1))
    max_norms: tuple[tuple[nn.Parameter, float], ...] = ()  # (weight, largest norm of a filter)
    step: int = 0


@dataclass(frozen=True)
class StepOptions:
    """How a batch passes through the network."""

    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    images: int = 0  # in a micro-batch; 0: the task's own number
    world: World = field(default_factory=World)
    memory_format: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Step:
    """The result of a step, over all processes. Its tensors are on the device; reading a value
    waits for it."""

    number: int
    lr: float
    loss: Tensor  # mean over the batch
    wrong: Tensor | None  # misclassified images of the batch, before the update
    batch_size: int
    images: int  # in a micro-batch
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
    """Train up to step `until`. Batches are this process's part of each batch.

    `rates` gives the learning rate and the momentum after a number of steps. `gradients` computes
    the gradients of the mean loss over a batch and returns values (k,). Yields, after each step,
    its learning rate and the mean of the values over all processes.
    """
    while learner.step < until:
        batch = next(batches)
        learner.net.train()
        lr, momentum = rates(learner.step)
        for group in learner.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if "nesterov" in group:  # rmsprop has a momentum of its own, of 0
                group["momentum"] = momentum
        learner.dropouts.begin_step(learner.step)
        try:
            values = gradients(batch)
            # Frozen parameters have no gradients, in any process.
            grads = [p.grad for p in learner.net.parameters() if p.grad is not None]
            world.average([*grads, *learner.norms.accumulated, values])
            learner.norms.update_running()
        finally:
            learner.norms.end_step()
            learner.dropouts.end_step()
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        with torch.no_grad():
            for weight, norm in learner.max_norms:
                weight.copy_(torch.renorm(weight, 2, 0, norm))
        learner.step += 1
        yield lr, values
