"""A balanced order shows classes equally often; weights make them count equally."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from residual.data.sampler import balanced_order, class_weights, copy_numbers

LABELS = torch.tensor([0] * 50 + [2] * 7 + [3] * 3 + [5] * 1)[
    torch.randperm(61, generator=torch.Generator().manual_seed(0))
]


def test_each_class_gets_an_equal_share_of_an_epoch():
    for epoch in range(4):
        ids = balanced_order(LABELS, 1, epoch)
        assert len(ids) == 61
        assert sorted(Counter(LABELS[ids].tolist()).values()) == [15, 15, 15, 16]


def test_what_does_not_divide_goes_round():
    totals = Counter()
    for epoch in range(4):
        totals += Counter(LABELS[balanced_order(LABELS, 1, epoch)].tolist())
    assert totals == dict.fromkeys((0, 2, 3, 5), 61)


def test_inside_a_class_images_come_equally_often_up_to_one():
    ids = balanced_order(LABELS, 1, 0)
    for label in (0, 2, 3, 5):
        times = torch.bincount(ids, minlength=61)[label == LABELS]
        assert times.max() - times.min() <= 1


def test_a_balanced_set_is_a_plain_epoch():
    labels = torch.arange(40) % 4
    assert balanced_order(labels, 0, 3).sort().values.tolist() == list(range(40))


def test_the_order_is_a_function_of_seed_and_epoch():
    first = balanced_order(LABELS, 1, 2)
    assert torch.equal(first, balanced_order(LABELS, 1, 2))
    assert not torch.equal(first, balanced_order(LABELS, 1, 3))
    assert not torch.equal(first, balanced_order(LABELS, 2, 2))
    assert len(LABELS[first][:15].unique()) > 1  # classes are not in a row


def test_over_epochs_all_images_of_a_large_class_come_about_equally_often():
    ids = torch.cat([balanced_order(LABELS, 1, epoch) for epoch in range(200)])
    times = torch.bincount(ids, minlength=61)[LABELS == 0].double()
    assert times.sum() == 200 * 61 / 4
    assert times.min() > 35 and times.max() < 90  # 61 on average, with a deviation of 6.5


def test_copies_count_how_often_an_image_came_before():
    ids = torch.tensor([4, 1, 4, 4, 0, 1])
    assert copy_numbers(ids).tolist() == [0, 0, 1, 2, 0, 1]
    many, seen = balanced_order(LABELS, 0, 0), Counter()
    for image, copy in zip(many.tolist(), copy_numbers(many).tolist(), strict=True):
        assert copy == seen[image]
        seen[image] += 1
    assert max(seen.values()) >= 15


def test_weights_make_classes_count_equally():
    weights = class_weights(LABELS, 7)
    assert weights[LABELS].mean() == pytest.approx(1)
    assert (weights * torch.bincount(LABELS, minlength=7)).unique(sorted=True).tolist() == (
        pytest.approx([0, 61 / 4])
    )
    assert weights[[1, 4, 6]].tolist() == [0, 0, 0]
    full = torch.tensor([0, 0, 0, 1])
    assert class_weights(full, 2).tolist() == pytest.approx([4 / (2 * 3), 4 / 2])
    scores = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(scores, full, reduction="none")
    by_class = (each[:3].mean() + each[3]) / 2
    assert (class_weights(full, 2)[full] * each).mean() == pytest.approx(float(by_class))
