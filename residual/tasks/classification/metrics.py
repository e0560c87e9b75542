"""The error of Sections 3.4 and 4.2, counted exactly, and the confusion matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Count:
    """Wrong answers among images. Rates are computed from the counts, at the end."""

    wrong_top1: int = 0
    wrong_top5: int = 0
    images: int = 0

    @property
    def error_top1(self) -> float:
        """The top-1 error in percent, as the paper prints it."""
        return 100 * self.wrong_top1 / self.images

    @property
    def error_top5(self) -> float:
        """The top-5 error in percent."""
        return 100 * self.wrong_top5 / self.images


def count(answers: Tensor, labels: Tensor, damaged: int = 0) -> Count:
    """Count answers (N, k), best first, that miss the labels (N,). Damaged images are wrong."""
    hits = answers == labels[:, None]
    return Count(
        wrong_top1=int((~hits[:, :1].any(dim=1)).sum()) + damaged,
        wrong_top5=int((~hits[:, :5].any(dim=1)).sum()) + damaged,
        images=len(labels) + damaged,
    )


def top_k(scores: Tensor, k: int = 5) -> Tensor:
    """The k best classes (N, k), best first, of scores (N, C); fewer where there are fewer classes.

    Of equal scores the lower class is the better one, on every device: `torch.topk` promises no
    order.
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


def confusion_matrix(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Images by class (rows) and answer (columns): (C, C) int64, of answers (N,) and labels (N,).

    Raises ValueError for a number that is no class.
    """
    for name, numbers in (("an answer", answers), ("a label", labels)):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise ValueError(f"{name} is not one of the {classes} classes, 0 to {classes - 1}")
    cells = labels.long() * classes + answers.long()
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
