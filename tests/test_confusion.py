"""Confusion matrices and the scores of each class."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from residual.analysis.confusion import class_scores, draw_confusion
from residual.analysis.curves import save_figure
from residual.tasks.classification.metrics import confusion_matrix


def answers(n: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    best = torch.randint(0, classes, (n,), generator=draw)
    labels = torch.randint(0, classes, (n,), generator=draw)
    return torch.where(torch.rand(n, generator=draw) < 0.6, labels, best), labels


def test_a_confusion_matrix_agrees_with_its_definition():
    best, labels = answers(500, 7)
    slow = torch.zeros(7, 7, dtype=torch.int64)
    for label in range(7):
        for answer in range(7):
            slow[label, answer] = sum(
                int(a) == answer and int(b) == label for a, b in zip(best, labels, strict=True)
            )
    matrix = confusion_matrix(best, labels, 7)
    assert matrix.dtype == torch.int64 and torch.equal(matrix, slow) and matrix.sum() == 500


def test_rows_are_the_true_classes():
    assert confusion_matrix(torch.tensor([2]), torch.tensor([0]), 3).tolist() == [
        [0, 0, 1],
        [0] * 3,
        [0] * 3,
    ]


def test_no_images_make_an_empty_matrix():
    empty = torch.zeros(0, dtype=torch.int64)
    assert confusion_matrix(empty, empty, 3).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("number", [-1, 3])
def test_an_answer_or_a_label_outside_the_classes_is_refused(number):
    inside, outside = torch.tensor([0]), torch.tensor([number])
    with pytest.raises(ValueError, match="an answer is not one of the 3 classes"):
        confusion_matrix(outside, inside, 3)
    with pytest.raises(ValueError, match="a label is not one of the 3 classes"):
        confusion_matrix(inside, outside, 3)


def test_scores_of_each_class_are_their_definitions():
    best, labels = answers(500, 7)
    for i, row in enumerate(class_scores(confusion_matrix(best, labels, 7).numpy(), "abcdefg")):
        right = int(((best == i) & (labels == i)).sum())
        precision, recall = right / int((best == i).sum()), right / int((labels == i).sum())
        assert (row.name, row.right) == ("abcdefg"[i], right)
        assert (row.images, row.answered) == (int((labels == i).sum()), int((best == i).sum()))
        assert (row.precision, row.recall) == pytest.approx((precision, recall))
        assert row.f1 == pytest.approx(2 * precision * recall / (precision + recall))
        wrong = best[(labels == i) & (best != i)].bincount(minlength=7)
        assert (row.mistaken_for, row.mistakes) == ("abcdefg"[int(wrong.argmax())], wrong.max())


def test_a_rate_over_nothing_is_undefined_and_not_zero():
    rows = class_scores(np.array([[0, 2, 0], [0, 0, 0], [0, 0, 0]]), "abc")
    nan = math.nan
    expected = [(nan, 0, 0), (0, nan, 0), (nan, nan, nan)]
    for row, rates in zip(rows, expected, strict=True):
        assert (row.precision, row.recall, row.f1) == pytest.approx(rates, nan_ok=True)


def test_a_matrix_is_drawn_with_any_number_of_classes_and_any_names(tmp_path):
    for n, named, counted in ((2, True, True), (30, True, False), (200, False, False)):
        axes = Figure(figsize=(4, 4)).subplots()
        matrix = confusion_matrix(*answers(300, n), n).numpy()
        draw_confusion(axes, matrix, [f"$\\no_{i}$ <b> with a very long name" for i in range(n)])
        texts = [label.get_text() for label in axes.get_yticklabels()]
        assert (texts[0].startswith("$\\no_0$ <b>") and texts[0].endswith("…")) == named
        assert len(axes.texts) == (int((matrix > 0).sum()) if counted else 0)
        save_figure(axes.figure, tmp_path / str(n))


def test_a_matrix_without_mistakes_or_without_images_can_be_drawn(tmp_path):
    for matrix in (np.eye(3, dtype=np.int64), np.zeros((3, 3), dtype=np.int64)):
        figure = Figure()
        draw_confusion(figure.subplots(), matrix, "abc")
        save_figure(figure, tmp_path / "figure")
