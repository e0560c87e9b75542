"""The losses of the paper's networks and of those that it compares with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.tasks.classification.recipe import Recipe, guidance

Lesson = tuple[Tensor, Tensor]  # a teacher's scores (N, classes), and its hint (N, C, H, W)


def several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network says in training: its scores (N, classes), and others behind them."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def summed(
    outputs: tuple[Tensor, ...],
    labels: Tensor,
    recipe: Recipe,
    step: int,
    weights: Tensor | None = None,
    lesson: Lesson | None = None,
) -> Tensor:
    """The loss summed over the images, with labels (N,), or (N, classes) where they are soft. Each
    further output counts by the recipe's `auxiliary`, as long as it says. A lesson counts as the
    recipe's `lesson` says: a hint alone, the answers of a teacher besides."""
    scores, *others = outputs
    if lesson is not None and recipe.lesson == "hint":
        return hint(others[0], lesson[1])
    total = one(scores, labels, recipe, weights)
    if lesson is not None and recipe.lesson == "distillation":
        total = total + guidance(recipe, step) * softened(scores, lesson[0], recipe.temperature)
    if recipe.auxiliary and (not recipe.auxiliary_steps or step < recipe.auxiliary_steps):
        if any(other.shape != scores.shape for other in others):
            raise ValueError("auxiliary counts further scores, and this network gives none")
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


def hint(guided: Tensor, shown: Tensor) -> Tensor:
    """Half the squared difference of two maps (N, C, H, W): summed over channels and images, the
    mean over positions (Romero et al. 2015, Eq. 3)."""
    return (guided - shown).square().sum(dim=1).mean(dim=(1, 2)).sum() / 2


def softened(scores: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of scores (N, classes) with a teacher's, both divided by the temperature
    (Romero et al. 2015, Eq. 2, without a factor of its square)."""
    answers = torch.softmax(taught / temperature, dim=1)
    return F.cross_entropy(scores / temperature, answers, reduction="sum")


def classes_of(labels: Tensor) -> Tensor:
    """(N,), also where labels are soft."""
    return labels if labels.ndim == 1 else torch.argmax(labels, dim=1)
