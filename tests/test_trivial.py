"""TrivialAugment is a function of the seed, the epoch and the image."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, TrivialAugmentWide

from residual.data.augment import TRIVIAL_DRAW, TrivialAugment, trivial_augment
from residual.data.rng import keyed_hash


def picture(seed: int = 0, side: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class Whole:
    """A cut that takes the whole picture, twice."""

    def __call__(self, image, image_id, epoch):
        return [np.stack([np.asarray(image)] * 2)]


def augmented(image_id: int, epoch: int = 0, seed: int = 0) -> np.ndarray:
    return np.asarray(trivial_augment(picture(), image_id, epoch, seed))


def test_it_is_torchvisions_with_a_keyed_generator():
    for image_id in range(30):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(keyed_hash(2, 1, image_id, TRIVIAL_DRAW)))
            theirs = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)(picture())
        assert np.array_equal(augmented(image_id, epoch=1, seed=2), np.asarray(theirs))


def test_equal_keys_give_equal_pixels_and_others_give_others():
    first = [augmented(i) for i in range(40)]
    torch.manual_seed(123)  # what was drawn elsewhere changes nothing
    assert all(np.array_equal(a, augmented(i)) for i, a in enumerate(first))
    for other in ({"epoch": 1}, {"seed": 1}):
        differs = [not np.array_equal(a, augmented(i, **other)) for i, a in enumerate(first)]
        assert sum(differs) > 30
    assert len({a.tobytes() for a in first}) > 25


def test_the_generator_of_everybody_else_is_left_as_it_was():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    augmented(1)
    assert torch.equal(torch.rand(3), expected)


def test_a_cut_is_augmented_and_keeps_its_shape():
    views = TrivialAugment(Whole(), seed=3)(picture(), 11, 2)
    plain = np.asarray(trivial_augment(picture(), 11, 2, 3))
    pixels = np.concatenate(views)
    assert pixels.shape == (2, 24, 24, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels[0], plain) and np.array_equal(pixels[1], plain)
