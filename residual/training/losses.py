"""The losses of the paper's networks and of those that it compares with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.training.recipe import Recipe


def several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network says in training: its scores (N, classes), and others behind them."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def summed(
    outputs: tuple[Tensor, ...], labels: Tensor, recipe: Recipe, step: int, weights: Tensor | None
) -> Tensor:
    """The loss summed over the images, with labels (N,), or (N, classes) where they are soft. Each
    further output counts by the recipe's `auxiliary`, as long as it says."""
    scores, *others = outputs
    total = one(scores, labels, recipe, weights)
    if recipe.auxiliary and (not recipe.auxiliary_steps or step < recipe.auxiliary_steps):
        for other in others:
            total = total + recipe.auxiliary * one(other, labels, recipe, weights)
    return total


def one(scores: Tensor, labels: Tensor, recipe: Recipe, weights: Tensor | None) -> Tensor:
    """Of one output."""
    if recipe.loss == "cross-entropy":
        return F.cross_entropy(
            scores, labels, weights, reduction="sum", label_smoothing=recipe.smoothing
        )
    # One class against all others, with targets 1 and -1 (Lee et al. 2015).
    targets = 2 * F.one_hot(labels, scores.shape[1]).to(scores.dtype) - 1
    each = (1 - targets * scores).clamp(min=0).square().sum(dim=1)  # (N,)
    return (each if weights is None else each * weights[labels]).sum()


def classes_of(labels: Tensor) -> Tensor:
    """(N,), also where labels are soft."""
    return labels if labels.ndim == 1 else torch.argmax(labels, dim=1)
