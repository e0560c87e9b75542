"""Which classes a network takes for which, and how well it knows each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from torch import Tensor


@dataclass(frozen=True)
class Judgement:
    """How well one class is known. A rate in [0, 1] is None where it would be 0/0."""

    count: int  # images of this class
    answered: int  # images that were taken for this class
    right: int

    @property
    def precision(self) -> float | None:
        return ratio(self.right, self.answered)

    @property
    def recall(self) -> float | None:
        return ratio(self.right, self.count)

    @property
    def f1(self) -> float | None:
        return ratio(2 * self.right, self.count + self.answered)


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def per_class(matrix: Tensor) -> list[Judgement]:
    """One judgement for each class of a confusion matrix (C, C)."""
    numbers = (matrix.sum(dim=1), matrix.sum(dim=0), matrix.diagonal())
    return [Judgement(*row) for row in zip(*(number.tolist() for number in numbers), strict=True)]


def balanced_accuracy(matrix: Tensor) -> float | None:
    """The mean recall over the classes that have images, in [0, 1]; None without any image."""
    recalls = [row.recall for row in per_class(matrix) if row.recall is not None]
    return sum(recalls) / len(recalls) if recalls else None


def draw_confusion(axes: Axes, matrix: Tensor, classes: Sequence[str]) -> None:
    """Each row as shares of its class: right answers in blue, mistakes in red.

    Red has a scale of its own, up to the most frequent mistake, and a square-root one, so that rare
    mistakes are seen. Up to 20 classes have their counts in the cells, up to 50 their names beside.
    """
    n = len(matrix)
    shares = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    right = torch.eye(n, dtype=torch.bool).numpy()
    hits = np.ma.masked_where(~right, shares)
    mistakes = np.ma.masked_where(right | (shares == 0), shares)
    most = max(float(mistakes.max()), 1e-9) if mistakes.count() else 1.0
    axes.imshow(hits, cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest")
    axes.imshow(mistakes, cmap="Reds", norm=PowerNorm(0.5, 0, 1.25 * most), interpolation="nearest")
    axes.set(xlabel="answer", ylabel="class")
    axes.tick_params(length=0, labelsize=9)
    if n <= 50:
        names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
        size = 10 if n <= 20 else 6
        turned = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(n), names, rotation=turned, fontsize=size, parse_math=False)
        axes.set_yticks(range(n), names, fontsize=size, parse_math=False)
    if n <= 20:
        for row, column in matrix.nonzero().tolist():
            share = shares[row, column] / (1.0 if row == column else most)
            colour = "white" if share > 0.6 else "0.15"
            count = f"{int(matrix[row, column]):,}"
            axes.text(column, row, count, ha="center", va="center", fontsize=9, color=colour)
