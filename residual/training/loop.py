"""The training loop of Section 3.4. It yields after each step; who iterates, decides the rest."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.training.recipe import Recipe, learning_rate


@dataclass
class Run:
    """A network while it learns."""

    net: nn.Module
    optimizer: torch.optim.SGD
    step: int = 0


@dataclass(frozen=True)
class Step:
    """What a step did. Tensors are on their device; asking for a value waits for it."""

    number: int
    lr: float
    loss: Tensor  # mean over the batch
    wrong: Tensor  # images of the batch whose best score, before the step, was not their class
    seen: int


def start(net: nn.Module, recipe: Recipe) -> Run:
    """Weight decay is on weights, not on biases or batch-norm scales (the authors' release)."""
    # Deviation: momentum gathers gradients and the rate multiplies them afterwards, as in torch;
    # the authors' Caffe multiplies first. The two differ only right after the rate drops.
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return Run(net, torch.optim.SGD(groups, recipe.lr, recipe.momentum))


def pace(group: int, groups: int, momentum: float = 0.1) -> float:
    """How far running statistics move at a group, counted from 0, so that after all groups of a
    step they have moved once, by `momentum`, toward the mean over the groups."""
    share = momentum / groups
    return share / (1 - (groups - 1 - group) * share)


def train(
    run: Run,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Step]:
    """Take the steps that remain, one at a time. Batches are (N, 3, H, W) and labels (N,)."""
    run.net.train()
    groups = recipe.batch // recipe.norm_group
    norms = [module for module in run.net.modules() if isinstance(module, nn.BatchNorm2d)]
    while run.step < recipe.steps:
        images, labels = next(batches)
        lr = learning_rate(recipe, run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        loss, wrong = torch.zeros((2,), device=labels.device)
        for g, (x, y) in enumerate(zip(images.chunk(groups), labels.chunk(groups), strict=True)):
            for norm in norms:
                norm.momentum = pace(g, groups)
            with precision():
                scores = run.net(x)
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            part = F.cross_entropy(scores, y) / groups
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
            wrong += (scores.detach().argmax(dim=1) != y).sum()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.step += 1
        yield Step(run.step, lr, loss, wrong, len(labels))
