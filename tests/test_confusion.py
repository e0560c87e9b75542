"""Confusion matrices and the judgement of each class."""

import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from residual.analysis.confusion import balanced_accuracy, draw_confusion, per_class
from residual.analysis.curves import save
from residual.tasks.classification.metrics import confusion


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
    matrix = confusion(best, labels, 7)
    assert matrix.dtype == torch.int64 and torch.equal(matrix, slow) and matrix.sum() == 500


def test_rows_are_the_true_classes():
    assert confusion(torch.tensor([2]), torch.tensor([0]), 3).tolist() == [
        [0, 0, 1],
        [0] * 3,
        [0] * 3,
    ]


def test_no_images_make_an_empty_matrix():
    empty = torch.zeros(0, dtype=torch.int64)
    assert confusion(empty, empty, 3).tolist() == [[0] * 3] * 3
    assert balanced_accuracy(confusion(empty, empty, 3)) is None


@pytest.mark.parametrize("number", [-1, 3])
def test_an_answer_or_a_label_outside_the_classes_is_refused(number):
    inside, outside = torch.tensor([0]), torch.tensor([number])
    with pytest.raises(ValueError, match="an answer is not one of the 3 classes"):
        confusion(outside, inside, 3)
    with pytest.raises(ValueError, match="a label is not one of the 3 classes"):
        confusion(inside, outside, 3)


def test_precision_recall_and_f1_are_those_of_scikit_learn():
    best, labels = answers(500, 7)
    matrix = confusion(best, labels, 7)
    theirs = precision_recall_fscore_support(labels.numpy(), best.numpy())
    rows = per_class(matrix)
    for i, values in enumerate(zip(*theirs, strict=True)):
        assert (rows[i].precision, rows[i].recall, rows[i].f1, rows[i].count) == pytest.approx(
            values
        )
    balanced = balanced_accuracy_score(labels.numpy(), best.numpy())
    assert balanced_accuracy(matrix) == pytest.approx(balanced)


def test_a_rate_over_nothing_is_unknown_and_not_zero():
    never_answered, absent, nothing = per_class(torch.tensor([[0, 2, 0], [0, 0, 0], [0, 0, 0]]))
    assert (never_answered.precision, never_answered.recall, never_answered.f1) == (None, 0, 0)
    assert (absent.precision, absent.recall, absent.f1) == (0, None, 0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)


def test_a_matrix_is_drawn_with_any_number_of_classes_and_any_names(tmp_path):
    for n, named, counted in ((2, True, True), (30, True, False), (200, False, False)):
        axes = Figure(figsize=(4, 4)).subplots()
        matrix = confusion(*answers(300, n), n)
        draw_confusion(axes, matrix, [f"$\\no_{i}$ <b> with a very long name" for i in range(n)])
        texts = [label.get_text() for label in axes.get_yticklabels()]
        assert (texts[0].startswith("$\\no_0$ <b>") and texts[0].endswith("…")) == named
        assert len(axes.texts) == (int((matrix > 0).sum()) if counted else 0)
        save(axes.figure, tmp_path / str(n))


def test_a_matrix_without_mistakes_or_without_images_can_be_drawn(tmp_path):
    for matrix in (torch.eye(3, dtype=torch.int64), torch.zeros(3, 3, dtype=torch.int64)):
        figure = Figure()
        draw_confusion(figure.subplots(), matrix, "abc")
        save(figure, tmp_path / "figure")
