"""Data augmentation: crops, flips, colour, erasing, mixup, CutMix and TrivialAugment.

Every random number is a function of (seed, epoch, image, draw); see rng.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import Picture, as_pixels, scaled_size
from residual.data.rng import randint, single_hash, single_randint, single_uniform, uniform

# Choice: zeros are padded after the mean is subtracted, so a border pixel is the mean pixel.
PAD_TOP, PAD_LEFT, PAD_FLIP = range(3)  # draws of an image in an epoch, as the following are
SCALE, LEFT, TOP = range(3)
REGION_DRAW = 100  # and 4 * ATTEMPTS - 1 more
FLIP_DRAW, COLOR_DRAW, ERASE_DRAW, ERASED_REGION_DRAW = 200, 210, 300, 310
TRIVIAL_DRAW = 500  # seeds the operation
MIX_DRAW = 400  # of a batch, whose image is -1: the kind, the share, and the place

ATTEMPTS = 10  # at an aspect crop or an erased region, as published
TOLERANCE = 1 / 32  # of a pixel, between a crop and its place
AREAS, RATIOS = (0.02, 0.33), (0.3, 3.3)  # of random erasing: share of the area, height by width

# The eigenvalues and, as rows, eigenvectors of the RGB values in [0, 1] of ImageNet's pixels
# (fb.resnet.torch). The values are the standard deviations along the vectors.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)
# Random or fixed crops of a picture, by its number and the epoch: arrays (views, H, W, 3).
Crop = Callable[[Picture, int, int], list[NDArray[np.uint8]]]


def pad_crop_flip(
    images: Tensor, ids: Tensor, epochs: Tensor, seed: int, padding: int, mirror: bool
) -> Tensor:
    """Pad (B, 3, H, W) with zeros, cut a random HxW crop and flip every second one (Sec. 4.2).

    The whole batch is one gather, and the result is in channels_last.
    """
    height, width = images.shape[2:]
    padded, shifts = F.pad(images, (padding,) * 4), 2 * padding + 1
    rows = torch.arange(height, device=images.device)
    rows = rows + randint(shifts, seed, epochs, ids, PAD_TOP).unsqueeze(1)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    if mirror:
        flip = randint(2, seed, epochs, ids, PAD_FLIP).bool().unsqueeze(1)
        columns = torch.where(flip, columns.flip(-1), columns)
    columns = columns + randint(shifts, seed, epochs, ids, PAD_LEFT).unsqueeze(1)  # (B, W)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    crops = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return crops.permute(0, 3, 1, 2)


def source_span(length: int, resized: int, start: int, size: int) -> tuple[int, int, int]:
    """The pixels of a line that `size` pixels of the resized line depend on, from `start` on.

    Returns the first, the one after the last, and how many resized pixels of them precede `start`.
    """
    # Only from a whole pixel on can a line be resized. So it begins at one which is almost where
    # a pixel of the resized line begins: close before the crop, or else at the border.
    margin = math.ceil(max(1, resized / length))  # as far as the filter reaches
    near = TOLERANCE * resized
    late = near if (resized - start - size) * length >= near else 0  # else the last may be lost
    for lead in range(margin, start):
        first, rest = divmod((start - lead) * length + late, resized)
        if rest <= late + near:
            break
    else:
        first, lead = 0, start
    step = length / resized
    last = min(length, math.ceil((start + size) * step + max(1, step)) + 1)
    if (last - first) * resized // length == last - first and length != resized:
        return 0, length, start  # torch copies what keeps its length, whatever the factor
    return int(first), last, lead


def interpolate(pixels: NDArray[np.uint8], **options: Any) -> Tensor:
    """Resize (H, W, 3) uint8, bilinear with antialiasing, to one view (1, H, W, 3), in half of
    Pillow's time."""
    image = torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2)  # channels_last
    resized = F.interpolate(image, mode="bilinear", antialias=True, **options)
    return resized.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class ScaleCrop:
    """The paper's crop: the shorter side is resized to a random integer in [256, 480], and a random
    224x224 region is cut (Sec. 3.4)."""

    size: int
    scales: tuple[int, int]
    seed: int

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        (width, height), left, top = self.place(image.size, image_id, epoch)
        first, last, lead = source_span(image.size[0], width, left, self.size)
        high, low, above = source_span(image.size[1], height, top, self.size)
        # A little more, or a product that should be a whole number may be rounded down.
        factors = [
            (1 + 1e-9) * a / b for a, b in zip((height, width), image.size[::-1], strict=True)
        ]
        part = as_pixels(image).part(first, high, last, low)
        resized = interpolate(part, scale_factor=factors, recompute_scale_factor=False)
        rows, columns = slice(above, above + self.size), slice(lead, lead + self.size)
        return [resized[:, rows, columns].numpy()]

    def place(
        self, size: tuple[int, int], image_id: int, epoch: int
    ) -> tuple[tuple[int, int], int, int]:
        """The (width, height) that a picture of this size is resized to, and the crop's left and
        top in it."""
        key = (self.seed, epoch, image_id)
        low, high = self.scales
        width, height = scaled_size(size, low + single_randint(high - low + 1, *key, SCALE))
        left = single_randint(width - self.size + 1, *key, LEFT)
        return (width, height), left, single_randint(height - self.size + 1, *key, TOP)


@dataclass(frozen=True)
class AspectCrop:
    """A region of random area and aspect, resized to a square (Szegedy et al. 2015).

    The area is 8 to 100 % of the picture's and the aspect between 3/4 and 4/3, as in torchvision.
    """

    size: int
    seed: int
    least: float = 0.08

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        part = as_pixels(image).part(*self.box(image.size, image_id, epoch))
        return [interpolate(part, size=(self.size, self.size)).numpy()]

    def box(self, size: tuple[int, int], image_id: int, epoch: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of this (width, height)."""
        width, height = size
        for first in range(REGION_DRAW, REGION_DRAW + 4 * ATTEMPTS, 4):
            area, aspect, left, top = (
                single_uniform(self.seed, epoch, image_id, first + draw) for draw in range(4)
            )
            pixels = width * height * (self.least + area * (1 - self.least))
            ratio = math.exp((2 * aspect - 1) * math.log(4 / 3))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
                return x, y, x + w, y + h
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        x, y = (width - w) // 2, (height - h) // 2
        return x, y, x + w, y + h


@dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugment (Müller and Hutter 2021) of another crop.

    A flip may come after it instead of before: each operation with a direction takes both signs
    equally often.
    """

    cut: Crop
    seed: int

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [
            np.asarray(trivial_augment(Image.fromarray(view), image_id, epoch, self.seed))[None]
            for views in self.cut(image, image_id, epoch)
            for view in views
        ]


def trivial_augment(image: Image.Image, image_id: int, epoch: int, seed: int) -> Image.Image:
    """One of fourteen operations on an RGB picture, at one of thirty-one strengths."""
    state = torch.get_rng_state()
    # Not torch.manual_seed, which takes ten times as long since it seeds all devices.
    torch.default_generator.manual_seed(single_hash(seed, epoch, image_id, TRIVIAL_DRAW))
    try:
        return _trivial_transform()(image)  # type: ignore[no-any-return]
    finally:
        torch.set_rng_state(state)


@lru_cache
def _trivial_transform() -> Any:
    """As in torchvision's recipe: "wide" and bilinear, with black where nothing is left."""
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide

    return TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)


def flip_mask(ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """Which of the images (B,) are flipped."""
    return randint(2, seed, epochs, ids, FLIP_DRAW).bool()


def random_flip(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """Flip every second image of (B, 3, H, W) horizontally (Sec. 3.4)."""
    return torch.where(flip_mask(ids, epochs, seed)[:, None, None, None], inputs.flip(-1), inputs)


def shift_colors(
    inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, sigma: float = 0.1
) -> Tensor:
    """AlexNet's colour augmentation (Sec. 3.4): one colour is added to all pixels of an image.

    Inputs (B, 3, H, W) are RGB in [0, 1]. A mean may have been subtracted, but they are not divided
    by a standard deviation.
    """
    return inputs + color_offsets(ids, epochs, seed, sigma).to(inputs.dtype)[:, :, None, None]


def color_offsets(ids: Tensor, epochs: Tensor, seed: int, sigma: float) -> Tensor:
    """The colour of each image, (B, 3) float64: along each eigenvector it is normal, with sigma
    times the eigenvalue as the standard deviation."""
    axes = torch.arange(3, device=ids.device)
    draws = uniform(seed, epochs[:, None], ids[:, None], COLOR_DRAW + axes)  # (B, 3)
    normal: Tensor = torch.special.ndtri(draws.clamp(min=2.0**-54))  # it is infinite at 0
    basis = torch.tensor(EIGENVECTORS, dtype=torch.float64, device=ids.device)
    values = torch.tensor(EIGENVALUES, dtype=torch.float64, device=ids.device)
    # A sum, not a product of matrices, whose digits depend on the batch.
    return ((sigma * normal * values)[:, :, None] * basis).sum(dim=1)


def random_erase(
    inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, probability: float
) -> Tensor:
    """Random erasing (Zhong et al. 2020) as in torchvision: a rectangle of some of (B, 3, H, W)
    becomes 0, the mean colour."""
    if not probability:
        return inputs
    height, width = inputs.shape[2:]
    attempts = torch.arange(4 * ATTEMPTS, device=ids.device)
    draws = uniform(seed, epochs[:, None], ids[:, None], ERASED_REGION_DRAW + attempts)
    area, ratio, top, left = draws.view(-1, ATTEMPTS, 4).unbind(dim=2)  # each (B, ATTEMPTS)
    pixels = height * width * (AREAS[0] + area * (AREAS[1] - AREAS[0]))
    low, high = map(math.log, RATIOS)
    aspect = torch.exp(low + ratio * (high - low))
    h, w = torch.sqrt(pixels * aspect).round(), torch.sqrt(pixels / aspect).round()
    fits = (h < height) & (w < width)  # (B, ATTEMPTS)
    top, left = (top * (height - h + 1)).floor(), (left * (width - w + 1)).floor()
    first = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    top, left, h, w = (x.gather(1, first) for x in (top, left, h, w))  # each (B, 1)
    chosen = fits.any(dim=1) & (uniform(seed, epochs, ids, ERASE_DRAW) < probability)  # (B,)
    rows = torch.arange(height, device=ids.device)
    columns = torch.arange(width, device=ids.device)
    down = (rows >= top) & (rows < top + h) & chosen[:, None]  # (B, H)
    across = (columns >= left) & (columns < left + w)  # (B, W)
    inside = down[:, :, None] & across[:, None, :]  # (B, H, W)
    return inputs.clone().masked_fill_(inside[:, None], 0)  # the clone keeps channels_last


def mix_batch(
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    *,
    seed: int,
    step: int,
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor]:
    """Mix each image of one norm group, or of the batch, with the one before it.

    Inputs (B, 3, H, W) and labels (B,) -> inputs (B, 3, H, W) and soft labels (B, classes). `mixup`
    (Zhang et al. 2018) and `cutmix` (Yun et al. 2019) are the alphas of their Beta distributions;
    if both are above 0, one of them is drawn for all images.
    """
    # Choice: as in torchvision, neighbours are mixed, because the order is random already, with one
    # lambda for all. The CPU draws, so that the numbers are equal on every device.
    kinds = [(alpha, mix) for alpha, mix in ((mixup, blend), (cutmix, paste)) if alpha > 0]
    targets = F.one_hot(labels, classes).float()
    if not kinds:
        return inputs, targets
    kind, quantile, x, y = (float(uniform(seed, step, -1, MIX_DRAW + i)) for i in range(4))
    alpha, mix = kinds[int(kind * len(kinds))]
    inputs, share = mix(inputs, beta_quantile(alpha, quantile), (x, y))
    return inputs, share * targets + (1 - share) * targets.roll(1, 0)


def beta_quantile(alpha: float, quantile: float) -> float:
    """The quantile of Beta(alpha, alpha)."""
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, quantile))


def blend(inputs: Tensor, share: float, _: tuple[float, float]) -> tuple[Tensor, float]:
    """Mixup: a share of each image (B, 3, H, W), and the rest of its neighbour."""
    return share * inputs + (1 - share) * inputs.roll(1, 0), share


def paste(inputs: Tensor, share: float, center: tuple[float, float]) -> tuple[Tensor, float]:
    """CutMix: a box of the neighbour, cut off at the border, and the share that is left.

    The box's centre is in [0, 1) of width and height.
    """
    height, width = inputs.shape[2:]

    def side(length: int, position: float) -> tuple[int, int]:
        half, middle = int(0.5 * math.sqrt(1 - share) * length), int(position * length)
        return max(0, middle - half), min(length, middle + half)

    (left, right), (top, bottom) = side(width, center[0]), side(height, center[1])
    result = inputs.clone()
    result[:, :, top:bottom, left:right] = inputs.roll(1, 0)[:, :, top:bottom, left:right]
    return result, 1 - (right - left) * (bottom - top) / (width * height)
