"""Claims of training crops: a region resized at once is the crop of the image resized whole."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.augment import TOLERANCE, AspectCrop, ScaleCrop, random_flip, source_span
from residual.data.decode import scaled_size
from residual.data.rng import randint, single_randint, single_uniform, uniform
from residual.data.test_crops import Views

DRAWS = 200
SIZES = ((500, 375), (333, 500), (300, 300), (1000, 260))
CROP = ScaleCrop(32, (36, 60), seed=3)
PAPER = ScaleCrop(224, (256, 480), seed=0)


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth as a photograph, with a little noise, and with no symmetry."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 4 * c)) + np.cos(y / (7 + 3 * c)) + x / width for c in range(3)]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) * 40 + 110 + noise).clip(0, 255).astype(np.uint8))


PICTURES = [picture(size) for size in ((90, 70), (70, 100), (80, 80))]


def plainly(crop: ScaleCrop, image: Image.Image, image_id: int, epoch: int) -> np.ndarray:
    """Section 3.4 word for word: the whole picture is resized, then the crop is cut out of it."""
    key = (crop.seed, epoch, image_id)
    low, high = crop.scales
    width, height = scaled_size(image.size, low + int(randint(high - low + 1, *key, 0)))
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    left = int(randint(width - crop.size + 1, *key, 1))
    top = int(randint(height - crop.size + 1, *key, 2))
    return np.asarray(whole.crop((left, top, left + crop.size, top + crop.size)))


def distance(crop, draws: int = DRAWS) -> float:
    """Grey levels between a crop and the plain one, on average over so many draws."""
    apart = []
    for i in range(draws):
        image = PICTURES[i % len(PICTURES)]
        (view,) = crop(image, i, i // 7)
        expected = plainly(CROP, image, i, i // 7).astype(float)
        apart.append(np.abs(view[0].astype(float) - expected).mean())
    return float(np.mean(apart))


def test_a_scale_crop_is_the_crop_of_the_picture_resized_whole():
    assert distance(CROP) < 0.25


def test_at_the_papers_size_too():
    for i, image in enumerate((picture((500, 375)), picture((375, 500)))):
        (view,) = PAPER(image, i, 0)
        assert view.shape == (1, 224, 224, 3)
        expected = plainly(PAPER, image, i, 0).astype(float)
        assert np.abs(view[0] - expected).mean() < 0.25


@pytest.mark.parametrize("shorter", [374, 375, 376, 377, 380])
def test_a_picture_of_almost_its_own_size_is_resized_too(shorter):
    crop = ScaleCrop(224, (shorter, shorter), seed=0)
    image = picture((500, 375))
    for i in range(8):
        expected = plainly(crop, image, i, 0).astype(float)
        assert np.abs(crop(image, i, 0)[0][0] - expected).mean() < 0.5


class Shifted(ScaleCrop):
    def place(self, size, image_id, epoch):
        (width, height), left, top = super().place(size, image_id, epoch)
        return (width, height), left + (1 if left + self.size < width else -1), top


class Flipped(ScaleCrop):
    def __call__(self, image, image_id, epoch):
        return [view[:, :, ::-1] for view in super().__call__(image, image_id, epoch)]


@pytest.mark.parametrize(
    "altered",
    [
        replace(CROP, scales=(36, 59)),
        replace(CROP, scales=(37, 60)),
        replace(CROP, seed=4),
        Shifted(32, (36, 60), 3),
        Flipped(32, (36, 60), 3),
    ],
    ids=["scales-end", "scales-begin", "seed", "position", "mirror"],
)
def test_the_comparison_catches_an_altered_crop(altered):
    assert distance(altered, 60) > 2


def test_every_scale_is_drawn_and_every_position_is_reached():
    n = 4_000
    ids = range(n)
    width, height = 500, 375
    places = [PAPER.place((width, height), i, 0) for i in ids]
    assert {size for size, _, _ in places} == {(int(s * 4 / 3), s) for s in range(256, 481)}
    narrow = ScaleCrop(32, (40, 40), seed=0)  # of 40 x 40: nine positions on each side
    reached = {narrow.place((90, 90), i, 0)[1:] for i in ids}
    assert reached == {(x, y) for x in range(9) for y in range(9)}


@pytest.mark.parametrize("size", [*SIZES, (1, 700), (640, 3), (40, 3)])
def test_crops_lie_inside_the_picture_and_so_do_the_pixels_that_they_need(size):
    for i in range(500):
        left, top, right, bottom = AspectCrop(176, seed=0).box(size, i, 1)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        resized, *starts = PAPER.place(size, i, 1)
        for own, whole, start in zip(size, resized, starts, strict=True):
            assert 0 <= start <= whole - 224
            first, last, before = source_span(own, whole, start, 224)
            assert 0 <= first < last <= own and 0 <= before <= start
            shift = (start - before) * own / whole - first
            assert abs(shift) <= TOLERANCE and (shift == 0 or before * own >= whole)
            made = int((last - first) * whole / own + 1e-6)
            assert made >= before + 224 and (made != last - first or own == whole)
            reach = max(1, own / whole)
            assert first == 0 or (before + 0.5) * own / whole >= reach
            assert last == own or last >= (start + 224) * own / whole + reach
    assert PAPER(picture(size), 0, 0)[0].shape == (1, 224, 224, 3)


def test_aspect_crops_have_8_to_100_percent_of_the_area_and_aspects_of_three_to_four():
    crop = AspectCrop(176, seed=0)
    boxes = [crop.box((500, 400), i, 0) for i in range(3_000)]
    areas = np.array([(r - le) * (b - t) / (500 * 400) for le, t, r, b in boxes])
    aspects = np.array([(r - le) / (b - t) for le, t, r, b in boxes])
    assert areas.min() > 0.079 and areas.min() < 0.09
    assert areas.max() <= 1 and areas.max() > 0.9
    assert aspects.min() > 0.74 and aspects.max() < 1.35
    assert aspects.min() < 0.76 and aspects.max() > 1.31
    square = [crop.box((400, 400), i, 0) for i in range(3_000)]
    assert abs(np.mean([math.log((r - le) / (b - t)) for le, t, r, b in square])) < 0.015
    lefts = np.array([le / max(500 - (r - le), 1) for le, t, r, b in boxes])
    assert abs(lefts.mean() - 0.5) < 0.02 and lefts.min() < 0.01 and lefts.max() > 0.99


def test_where_no_aspect_fits_the_middle_is_taken():
    left, top, right, bottom = AspectCrop(32, 0, least=1.0).box((4_000, 10), 0, 0)
    assert (top, bottom) == (0, 10) and right - left == 13
    assert left == (4_000 - 13) // 2


@pytest.mark.parametrize("crop", [CROP, AspectCrop(32, seed=3)])
def test_a_crop_is_a_function_of_seed_epoch_and_image(crop):
    def cut(image_id: int, epoch: int, seed: int = 3) -> bytes:
        return replace(crop, seed=seed)(PICTURES[0], image_id, epoch)[0].tobytes()

    assert cut(5, 2) == cut(5, 2)
    assert cut(5, 2) not in {cut(6, 2), cut(5, 3), cut(5, 2, 9)}


def test_an_aspect_crop_is_cut_and_then_resized():
    crop = AspectCrop(32, seed=3)
    for i, image in enumerate(PICTURES):
        plain = image.crop(crop.box(image.size, i, 0)).resize((32, 32), Image.Resampling.BILINEAR)
        (view,) = crop(image, i, 0)
        assert np.abs(view[0].astype(float) - np.asarray(plain)).max() <= 2


def test_draws_of_one_key_equal_those_of_many():
    keys = torch.arange(50)
    assert [single_randint(7, 1, 2, i) for i in range(50)] == randint(7, 1, 2, keys).tolist()
    assert [single_uniform(1, -2, i) for i in range(50)] == uniform(1, -2, keys).tolist()
    assert min(uniform(0, torch.arange(1000))) >= 0 and max(uniform(0, torch.arange(1000))) < 1


def test_a_centre_crop_is_the_middle_of_the_picture_resized():
    image = picture((90, 70))
    (view,) = Views("centre", (32, 32), (40,))(image, 0, 0)
    whole = image.resize((51, 40), Image.Resampling.BILINEAR)
    left, top = round((51 - 32) / 2), 4
    assert (view[0] == np.asarray(whole.crop((left, top, left + 32, top + 32)))).all()


def test_a_mirror_is_a_fair_coin_that_turns_pixels_exactly():
    x = torch.arange(400 * 3 * 2 * 4).view(400, 3, 2, 4)
    ids, epochs = torch.arange(400), torch.zeros(400, dtype=torch.int64)
    y = random_flip(x, ids, epochs, 0)
    turned = torch.tensor([bool((a == b.flip(-1)).all()) for a, b in zip(y, x, strict=True)])
    assert (torch.where(turned[:, None, None, None], x.flip(-1), x) == y).all()
    assert 0.4 < turned.double().mean() < 0.6
