"""The losses of the paper's networks and of the baselines."""

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.tasks.classification.recipe import ClassificationRecipe, guidance

TeacherOutput = tuple[Tensor, Tensor]  # scores (N, classes), and the hint (N, C, H, W)


def total_loss(
    outputs: tuple[Tensor, ...],
    labels: Tensor,
    recipe: ClassificationRecipe,
    step: int,
    weights: Tensor | None = None,
    teacher: TeacherOutput | None = None,
) -> Tensor:
    """The loss summed over the images, with labels (N,), or (N, classes) where they are soft.

    `outputs` are scores (N, classes) and the outputs of auxiliary heads. With a teacher, the lesson
    `hint` replaces the loss of the labels, and `distillation` is added to it.
    """
    scores, *heads = outputs
    if teacher is not None and recipe.lesson == "hint":
        return hint_loss(heads[0], teacher[1])
    total = label_loss(scores, labels, recipe, weights)
    if teacher is not None and recipe.lesson == "distillation":
        loss = distillation_loss(scores, teacher[0], recipe.temperature)
        total = total + guidance(recipe, step) * loss
    if recipe.auxiliary and (not recipe.auxiliary_steps or step < recipe.auxiliary_steps):
        if any(head.shape != scores.shape for head in heads):
            raise ValueError("auxiliary is a weight of further scores, and this network has none")
        for head in heads:
            total = total + recipe.auxiliary * label_loss(head, labels, recipe, weights)
    return total


def label_loss(
    scores: Tensor, labels: Tensor, recipe: ClassificationRecipe, weights: Tensor | None
) -> Tensor:
    """The loss of scores (N, classes), with a weight for each class."""
    if recipe.loss == "cross-entropy":
        return F.cross_entropy(
            scores, labels, weights, reduction="sum", label_smoothing=recipe.smoothing
        )
    # The squared hinge of each class against the others, with targets 1 and -1 (Lee et al. 2015).
    targets = 2 * F.one_hot(labels, scores.shape[1]).to(scores.dtype) - 1
    loss = (1 - targets * scores).clamp(min=0).square().sum(dim=1)  # (N,)
    return (loss if weights is None else loss * weights[labels]).sum()


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Half the squared difference of two maps (N, C, H, W): summed over channels and images, the
    mean over positions (Romero et al. 2015, Eq. 3)."""
    return (guided - hint).square().sum(dim=1).mean(dim=(1, 2)).sum() / 2


def distillation_loss(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of scores (N, classes) with a teacher's, both divided by the temperature
    (Romero et al. 2015, Eq. 2, without a factor of its square)."""
    targets = torch.softmax(teacher / temperature, dim=1)
    return F.cross_entropy(scores / temperature, targets, reduction="sum")
