"""Claims of the sampler: the order, crops and flips of Section 4.2, from keys alone; balance."""

from collections import Counter
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from residual.data.augment import PAD_FLIP, PAD_LEFT, PAD_TOP, pad_crop_flip
from residual.data.datasets import ImageTensors
from residual.data.loader import evaluation_batches, training_batches
from residual.data.normalization import Preprocessing, per_pixel_mean
from residual.data.rng import randint
from residual.data.sampler import (
    DataConfig,
    balanced_order,
    batch_indices,
    class_weights,
    copy_numbers,
)


def images(n: int, side: int = 8) -> ImageTensors:
    draw = torch.Generator().manual_seed(n)
    pixels = torch.randint(0, 256, (n, 3, side, side), generator=draw, dtype=torch.uint8)
    return ImageTensors(pixels, torch.arange(n))


def as_it_is(side: int = 8) -> Preprocessing:
    return Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (side, side))


def slow(image: Tensor, top: int, left: int, mirrored: int, padding: int) -> Tensor:
    """Pad, cut, flip, as the paper says it: (3, H, W) -> (3, H, W)."""
    height, width = image.shape[1:]
    crop = F.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
    return crop.flip(-1) if mirrored else crop


@pytest.mark.parametrize(("padding", "mirror"), [(4, True), (4, False), (1, False), (0, True)])
@pytest.mark.parametrize("shape", [(8, 8), (5, 9)])
def test_a_batch_is_cropped_and_mirrored_as_each_image_alone(padding, mirror, shape):
    batch = torch.randn(64, 3, *shape, generator=torch.Generator().manual_seed(0))
    ids, epochs = torch.arange(64) * 31, torch.arange(64) // 40
    fast = pad_crop_flip(batch, ids, epochs, 7, padding, mirror)
    for i in range(64):
        key = (7, int(epochs[i]), int(ids[i]))
        top, left = (int(randint(2 * padding + 1, *key, draw)) for draw in (PAD_TOP, PAD_LEFT))
        mirrored = int(randint(2, *key, PAD_FLIP)) if mirror else 0
        assert torch.equal(fast[i], slow(batch[i], top, left, mirrored, padding))


def test_a_crop_starts_at_each_of_nine_by_nine_places_either_way_round_and_nowhere_else():
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    all_crops = {
        slow(image, top, left, mirrored, 4).numpy().tobytes(): (top, left, mirrored)
        for top in range(9) for left in range(9) for mirrored in (0, 1)
    }  # fmt: skip
    n = 4_000
    crops = pad_crop_flip(
        image.expand(n, 3, 32, 32), torch.arange(n), torch.zeros(n, dtype=torch.int64), 0, 4, True
    )
    seen = Counter(all_crops[crop.contiguous().numpy().tobytes()] for crop in crops)
    assert len(seen) == 9 * 9 * 2
    assert max(seen.values()) < 3 * n / len(seen)


def test_a_batch_lies_in_memory_with_its_channels_last():
    batch = pad_crop_flip(
        torch.randn(4, 3, 8, 8), torch.arange(4), torch.zeros(4).long(), 0, 4, True
    )
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch", [3, 7, 10, 25])
def test_each_image_comes_once_in_each_epoch(batch):
    n = 10
    pairs = []
    for step in range(40):
        ids, epochs = batch_indices(torch.arange(n), DataConfig(batch=batch, seed=0), step)
        assert len(ids) == len(epochs) == batch
        pairs += zip(epochs.tolist(), ids.tolist(), strict=True)
    assert [epoch for epoch, _ in pairs] == sorted(epoch for epoch, _ in pairs)
    complete = len(pairs) // n
    for epoch in range(complete):
        assert sorted(i for e, i in pairs if e == epoch) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_small_set_gives_full_batches(n):
    batches = training_batches(images(n), as_it_is(), DataConfig(batch=128, seed=0, padding=4))
    for inputs, labels in islice(batches, 3):
        assert tuple(inputs.shape) == (128, 3, 8, 8)
        assert labels.bincount(minlength=n).min() >= 128 // n - 1


def test_a_batch_depends_on_its_number_and_not_on_those_before_it():
    how = DataConfig(batch=7, seed=3, padding=2)
    from_start = list(islice(training_batches(images(20), as_it_is(), how), 12))
    for step in (1, 5, 11):
        inputs, labels = next(training_batches(images(20), as_it_is(), how, step))
        assert torch.equal(inputs, from_start[step][0])
        assert torch.equal(labels, from_start[step][1])


def test_another_seed_gives_other_batches():
    firsts = [
        next(training_batches(images(20), as_it_is(), DataConfig(batch=7, seed=s, padding=2)))[0]
        for s in (0, 1)
    ]
    assert not torch.equal(*firsts)


def test_an_image_keeps_its_label_and_is_cropped_anew_in_each_epoch():
    some = images(5)
    batches = training_batches(some, as_it_is(), DataConfig(batch=5, seed=0, padding=4))
    crops_seen: dict[int, set[bytes]] = {label: set() for label in range(5)}
    for inputs, labels in islice(batches, 20):
        for picture, label in zip(inputs, labels.tolist(), strict=True):
            crops_seen[label].add(picture.contiguous().numpy().tobytes())
    all_crops = {
        slow(some.pixels[label].float() / 255, top, left, mirrored, 4).numpy().tobytes(): label
        for label in range(5) for top in range(9) for left in range(9) for mirrored in (0, 1)
    }  # fmt: skip
    for label, crops in crops_seen.items():
        assert len(crops) > 15
        assert {all_crops[crop] for crop in crops} == {label}


def test_a_border_is_zero_after_the_mean_is_subtracted():
    white = ImageTensors(torch.full((4, 3, 8, 8), 255, dtype=torch.uint8), torch.arange(4))
    halfway = Preprocessing(torch.full((3, 8, 8), 0.5), torch.ones(3, 1, 1), (8, 8))
    batches = training_batches(white, halfway, DataConfig(batch=64, seed=0, mirror=False))
    assert next(batches)[0].unique().tolist() == [0.0, 0.5]


def test_the_per_pixel_mean_is_that_of_the_training_set():
    some = images(50)
    preprocessing = per_pixel_mean(some)
    exact = some.pixels.double().mean(dim=0) / 255
    assert (preprocessing.mean - exact).abs().max() < 1e-7
    assert preprocessing.size == (8, 8)
    assert preprocessing(some.pixels).mean(dim=0).abs().max() < 1e-6


def test_the_mean_is_exact_over_more_images_than_are_added_at_once():
    pixels = torch.full((9_000, 3, 1, 1), 255, dtype=torch.uint8)
    pixels[:3_000] = 0
    mean = per_pixel_mean(ImageTensors(pixels, torch.zeros(9_000))).mean
    assert torch.equal(mean, torch.full((3, 1, 1), 2 / 3))


def test_preprocessing_leaves_the_pixels_as_they_are():
    some = images(3)
    before = some.pixels.clone()
    Preprocessing(torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.2), (8, 8))(some.pixels)
    assert torch.equal(some.pixels, before)


def test_evaluation_takes_every_image_once_in_order_and_uncropped():
    some = images(23)
    batches = list(evaluation_batches(some, as_it_is(), batch=5))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat([labels for _, labels in batches]), some.labels)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), some.pixels.float() / 255)


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
