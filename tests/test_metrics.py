"""Errors and confusion matrices are counts."""

import pytest
import torch

from residual.data.loader import evaluation_batches
from residual.data.normalization import per_pixel_mean
from residual.data.sources import digits
from residual.tasks.classification.metrics import Count, confusion_matrix, count


def test_an_error_is_in_percent_of_the_images_seen():
    assert (Count(31, 20, 100).error_top1, Count(31, 20, 100).error_top5) == (31.0, 20.0)


def test_an_answer_is_wrong_when_the_label_is_not_the_best_or_not_among_five():
    labels = torch.tensor([3, 3, 3, 3])
    given = torch.tensor([[3, 0, 1, 2, 4], [0, 3, 1, 2, 4], [0, 1, 2, 4, 3], [0, 1, 2, 4, 5]])
    assert count(given, labels) == Count(wrong_top1=3, wrong_top5=1, images=4)


def test_only_the_first_five_answers_count():
    given = torch.tensor([[0, 1, 2, 4, 5, 3]])
    assert count(given, torch.tensor([3])) == Count(1, 1, 1)


def test_a_damaged_picture_counts_as_wrong():
    assert count(torch.tensor([[3]]), torch.tensor([3]), damaged=2) == Count(2, 2, 3)


def test_each_image_is_seen_once_and_in_order():
    images = digits().test
    labels = [y for _, y in evaluation_batches(images, per_pixel_mean(images), 7)]
    assert torch.equal(torch.cat(labels), images.labels)


def test_the_confusion_matrix_has_classes_in_rows_and_answers_in_columns():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    given = torch.tensor([0, 1, 1, 2, 0, 0])
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, answer in zip(labels, given, strict=True):
        expected[label, answer] += 1
    assert torch.equal(confusion_matrix(given, labels, 4), expected)


@pytest.mark.parametrize(("labels", "given"), [([0, 3], [0, 0]), ([0, 0], [0, 3]), ([-1], [0])])
def test_a_label_or_an_answer_that_is_no_class_is_refused(labels, given):
    with pytest.raises(ValueError, match="is not one of the 3 classes, 0 to 2"):
        confusion_matrix(torch.tensor(given), torch.tensor(labels), 3)
