"""Claims of augmentation on the device, of mixup and CutMix, and of TrivialAugment."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, TrivialAugmentWide
from torchvision.transforms.v2 import CutMix, MixUp

from residual.data import augment
from residual.data.augment import (
    TRIVIAL_DRAW,
    TrivialAugment,
    beta_quantile,
    blend,
    mix_batch,
    paste,
    random_erase,
    random_flip,
    shift_colors,
    trivial_augment,
)
from residual.data.rng import keyed_hash, randint, uniform


def batch(n: int, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (n, 3, height, width) without a zero, and the images and epochs they are of."""
    draw = torch.Generator().manual_seed(n)
    inputs = torch.rand(n, 3, height, width, generator=draw) + 0.1
    return inputs, torch.arange(n) * 7, torch.arange(n) % 3


def one_erased(image: Tensor, image_id: int, epoch: int, seed: int, probability: float) -> Tensor:
    """Random erasing as torchvision's loop has it: (3, H, W) -> (3, H, W)."""
    if float(uniform(seed, epoch, image_id, augment.ERASE_DRAW)) >= probability:
        return image
    _, height, width = image.shape
    for attempt in range(10):
        area, ratio, top, left = (
            float(uniform(seed, epoch, image_id, augment.ERASED_REGION_DRAW + 4 * attempt + i))
            for i in range(4)
        )
        pixels = height * width * (0.02 + area * (0.33 - 0.02))
        aspect = math.exp(math.log(0.3) + ratio * (math.log(3.3) - math.log(0.3)))
        h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if h < height and w < width:
            y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
            image = image.clone()
            image[:, y : y + h, x : x + w] = 0
            return image
    return image


@pytest.mark.parametrize("size", [(24, 24), (8, 40)])  # in the second, many attempts do not fit
def test_erasing_agrees_with_its_loop(size):
    inputs, ids, epochs = batch(300, *size)
    expected = [
        one_erased(*each, 5, 0.7)
        for each in zip(inputs, ids.tolist(), epochs.tolist(), strict=True)
    ]
    assert torch.equal(random_erase(inputs, ids, epochs, 5, 0.7), torch.stack(expected))


def test_a_tenth_of_the_images_lose_two_to_thirty_three_percent():
    inputs, ids, epochs = batch(8000, 32, 32)
    share = (random_erase(inputs[:, :1], ids, epochs, 0, 0.1) == 0).float().mean(dim=(1, 2, 3))
    touched = share[share > 0]
    assert len(touched) / 8000 == pytest.approx(0.1, abs=0.012)
    assert 0.012 < touched.min() < 0.03 and 0.30 < touched.max() < 0.345
    assert touched.mean() == pytest.approx(0.175, abs=0.015)


def test_the_mirror_agrees_with_one_image_at_a_time():
    inputs, ids, epochs = batch(64)
    result = random_flip(inputs, ids, epochs, 3)
    for i, (image_id, epoch) in enumerate(zip(ids.tolist(), epochs.tolist(), strict=True)):
        turned = bool(randint(2, 3, epoch, image_id, augment.FLIP_DRAW))
        assert torch.equal(result[i], inputs[i].flip(-1) if turned else inputs[i])


def test_half_of_the_images_are_mirrored_whatever_their_crop():
    ids, epochs = torch.arange(20_000), torch.zeros(20_000, dtype=torch.long)
    inputs = torch.tensor([0.0, 1.0]).expand(20_000, 3, 1, 2)
    turned = random_flip(inputs, ids, epochs, 0)[:, 0, 0, 0] == 1
    assert turned.float().mean() == pytest.approx(0.5, abs=0.015)
    for draw in range(3):  # those of crops
        high = uniform(0, epochs, ids, draw) >= 0.5
        assert turned[high].float().mean() == pytest.approx(0.5, abs=0.02)


def test_a_colour_shift_is_one_colour_for_all_pixels_of_an_image():
    inputs, ids, epochs = (x.double() if x.is_floating_point() else x for x in batch(16))
    shift = shift_colors(inputs, ids, epochs, 1) - inputs
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-12)
    assert len(shift[:, 0, 0, 0].unique()) > 10


def test_the_colour_shift_has_the_deviations_that_are_published():
    ids, epochs = torch.arange(40_000), torch.full((40_000,), 2)
    shift = shift_colors(torch.zeros(40_000, 3, 1, 1).double(), ids, epochs, 1, 0.1).flatten(1)
    vectors = torch.tensor(augment.EIGENVECTORS).double()
    along = shift @ vectors.T  # (n, 3): the vectors are orthonormal to three digits
    assert torch.allclose(vectors @ vectors.T, torch.eye(3).double(), atol=1e-3)
    expected = 0.1 * torch.tensor([0.2175, 0.0188, 0.0045]).double()
    assert torch.allclose(along.std(dim=0), expected, rtol=0.02)
    assert (along.mean(dim=0).abs() < 4 * expected / 200).all()
    inside = (along[:, 0].abs() < expected[0]).double().mean()
    assert inside == pytest.approx(0.6827, abs=0.01)  # it is normal


def test_a_part_of_a_batch_is_altered_like_the_whole():
    inputs, ids, epochs = batch(12, 24, 24)
    for alter in (random_flip, shift_colors, lambda *key: random_erase(*key, 0.5)):
        whole = alter(inputs, ids, epochs, 4)
        parts = [alter(inputs[i : i + 1], ids[i : i + 1], epochs[i : i + 1], 4) for i in range(12)]
        assert torch.equal(whole, torch.cat(parts))
        assert not torch.equal(whole, alter(inputs, ids, epochs + 1, 4))
        assert not torch.equal(whole, alter(inputs, ids, epochs, 5))


def test_channels_last_stays_so():
    inputs, ids, epochs = batch(4, 24, 24)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    mixes = [
        mix_batch(inputs, ids % 5, 5, seed=0, step=0, mixup=a, cutmix=1 - a)[0] for a in (0, 1)
    ]
    altered = [random_flip(inputs, ids, epochs, 0), shift_colors(inputs, ids, epochs, 0)]
    for result in [*mixes, *altered, random_erase(inputs, ids, epochs, 0, 1.0)]:
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_mixup_agrees_with_torchvision_given_its_lambda(kept):
    inputs, labels = batch(6)[0], torch.tensor([0, 1, 2, 2, 1, 0])
    theirs = MixUp(num_classes=3)
    theirs.make_params = lambda _: {"lam": kept}  # type: ignore[method-assign]
    expected_inputs, expected_labels = theirs(inputs, labels)
    ours, share = blend(inputs, kept, (0.0, 0.0))
    soft = torch.eye(3)[labels]
    assert torch.allclose(ours, expected_inputs) and share == kept
    assert torch.allclose(share * soft + (1 - share) * soft.roll(1, 0), expected_labels)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("centre", [(0.0, 0.99), (0.5, 0.4)])
def test_cutmix_agrees_with_torchvision_given_its_lambda_and_centre(monkeypatch, kept, centre):
    inputs, labels = batch(6, 12, 20)[0], torch.tensor([0, 1, 2, 2, 1, 0])
    places = iter([torch.tensor([int(centre[0] * 20)]), torch.tensor([int(centre[1] * 12)])])
    theirs = CutMix(num_classes=3)
    theirs._dist.sample = lambda _: torch.tensor(kept)  # type: ignore[method-assign]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(places))
    expected_inputs, expected_labels = theirs(inputs, labels)
    ours, share = paste(inputs, kept, centre)
    soft = torch.eye(3)[labels]
    assert torch.equal(ours, expected_inputs)
    assert torch.allclose(share * soft + (1 - share) * soft.roll(1, 0), expected_labels)


def mixes(n: int, mixup: float, cutmix: float) -> list[tuple[float, bool]]:
    """Of n steps the share of its own label that an image keeps, and whether pixels are blended."""
    inputs = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    found = []
    for step in range(n):
        x, y = mix_batch(
            inputs, torch.tensor([0, 1]), 2, seed=9, step=step, mixup=mixup, cutmix=cutmix
        )
        assert torch.allclose(y.sum(dim=1), torch.ones(2)) and (y >= 0).all()
        assert float(y[1, 1]) == pytest.approx(float(x[1].mean()), abs=1e-5)  # pixels as labels
        found.append((float(y[1, 1]), bool(((x > 1e-6) & (x < 1 - 1e-6)).any())))
    return found


def test_soft_labels_tell_how_much_of_each_image_is_there_and_a_coin_chooses_the_kind():
    blends = [blend for _, blend in mixes(600, mixup=1.0, cutmix=1.0)]
    assert sum(blends) / 600 == pytest.approx(0.5, abs=0.08)
    assert all(blend for _, blend in mixes(30, mixup=1.0, cutmix=0.0))
    assert not any(blend for _, blend in mixes(30, mixup=0.0, cutmix=1.0))


def test_lambda_has_the_moments_of_its_beta_distribution():
    kept = torch.tensor([share for share, _ in mixes(1500, mixup=0.2, cutmix=0.0)])
    assert kept.mean() == pytest.approx(0.5, abs=0.04)
    assert kept.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1 - 2.0**-53])
def test_beta_1_1_is_uniform_and_every_quantile_is_a_share(share):
    assert beta_quantile(1.0, share) == pytest.approx(share)
    assert 0 <= beta_quantile(0.2, share) <= 1
    assert beta_quantile(0.2, share) + beta_quantile(0.2, 1 - share) == pytest.approx(1, abs=1e-6)


def test_equal_keys_mix_equally_and_without_alphas_nothing_is_mixed():
    inputs, labels = batch(4)[0], torch.arange(4)
    first, again, later = (
        mix_batch(inputs, labels, 4, seed=1, step=step, mixup=0.2, cutmix=1.0) for step in (5, 5, 6)
    )
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], later[1])
    same, hard = mix_batch(inputs, labels, 4, seed=1, step=5, mixup=0.0, cutmix=0.0)
    assert same is inputs and torch.equal(hard, torch.eye(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_alters_images_as_a_cpu_does():
    inputs, ids, epochs = batch(64, 24, 24)
    far = [x.cuda() for x in (inputs, ids, epochs)]
    assert torch.equal(random_flip(*far, 1).cpu(), random_flip(inputs, ids, epochs, 1))
    assert torch.equal(random_erase(*far, 1, 0.5).cpu(), random_erase(inputs, ids, epochs, 1, 0.5))
    assert torch.allclose(
        shift_colors(*far, 1).cpu(), shift_colors(inputs, ids, epochs, 1), atol=1e-6
    )
    for step in range(8):
        key = {"seed": 1, "step": step, "mixup": 0.2, "cutmix": 1.0}
        there, here = mix_batch(far[0], far[1] % 5, 5, **key), mix_batch(inputs, ids % 5, 5, **key)
        assert torch.allclose(there[0].cpu(), here[0], atol=1e-6)
        assert torch.allclose(there[1].cpu(), here[1], atol=1e-7)


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
