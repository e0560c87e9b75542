"""The confusion matrix of a classifier: scores of each class, and a drawing."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Matrix = NDArray[np.int64]  # (C, C): images of a class (row) that were taken for a class (column)


class ClassScores(NamedTuple):
    """Counts and rates of one class; a rate in [0, 1] is NaN where it would be 0/0."""

    name: str
    images: int
    answered: int  # images that were taken for this class
    right: int
    recall: float
    precision: float
    f1: float
    mistaken_for: str  # the class that its images are most often taken for
    mistakes: int  # as which they are taken so often


def class_scores(matrix: Matrix, names: Sequence[str]) -> list[ClassScores]:
    """The scores of each class. Raises ValueError for a matrix without any image."""
    from sklearn.metrics import precision_recall_fscore_support

    truth, answer = np.nonzero(matrix)
    labels, images = range(len(matrix)), matrix[truth, answer]
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, answer, labels=labels, sample_weight=images, zero_division=np.nan
    )
    wrong = matrix - np.diag(matrix.diagonal())
    counts = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    columns = [column.tolist() for column in (*counts, recall, precision, f1)]
    others = [names[place] for place in wrong.argmax(axis=1)], wrong.max(axis=1).tolist()
    return [ClassScores(*row) for row in zip(names, *columns, *others, strict=True)]


def draw_confusion(axes: Axes, matrix: Matrix, classes: Sequence[str]) -> None:
    """Draw each row as shares of its class, on one scale of colours from zero to all.

    Up to 20 classes have counts in the cells, up to 50 have names beside the axes.
    """
    n = len(matrix)
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="answer", ylabel="class")
    axes.tick_params(length=0, labelsize=9)
    if n <= 50:
        names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
        size = 10 if n <= 20 else 6
        rotation = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(n), names, rotation=rotation, fontsize=size, parse_math=False)
        axes.set_yticks(range(n), names, fontsize=size, parse_math=False)
    if n <= 20:
        for row, column in np.argwhere(matrix).tolist():
            colour = "white" if shares[row, column] > 0.6 else "0.15"
            count = f"{matrix[row, column]:,}"
            axes.text(column, row, count, ha="center", va="center", fontsize=9, color=colour)
