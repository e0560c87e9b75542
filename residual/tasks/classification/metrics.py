"""Sections 3.4 and 4.2: the error of a network, counted exactly."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Count:
    """Wrong answers among the images seen. Counts add; rates are computed at the very end."""

    wrong_top1: int = 0
    wrong_top5: int = 0
    seen: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.wrong_top1 + other.wrong_top1,
            self.wrong_top5 + other.wrong_top5,
            self.seen + other.seen,
        )

    @property
    def error_top1(self) -> float:
        """In percent, as the paper prints it."""
        return 100 * self.wrong_top1 / self.seen

    @property
    def error_top5(self) -> float:
        return 100 * self.wrong_top5 / self.seen


def count(answers: Tensor, labels: Tensor, damaged: int = 0) -> Count:
    """An answer (N, k), best first, is wrong when the label is not the best, or not among five.

    A damaged picture has no answer; it counts as wrong.
    """
    hits = answers == labels[:, None]
    return Count(
        wrong_top1=int((~hits[:, :1].any(dim=1)).sum()) + damaged,
        wrong_top5=int((~hits[:, :5].any(dim=1)).sum()) + damaged,
        seen=len(labels) + damaged,
    )


def confusion(best: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many images of each class (rows) got which answer (columns): (C, C) int64.

    From the best answers (N,) and the labels (N,). Raises ValueError for one that is no class.
    """
    for name, numbers in (("an answer", best), ("a label", labels)):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise ValueError(f"{name} is not one of the {classes} classes, 0 to {classes - 1}")
    cells = labels.long() * classes + best.long()
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
