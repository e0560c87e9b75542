"""Which region of a photograph becomes a training image: Section 3.4, and the later recipe's."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import Picture, as_pixels, scaled_size
from residual.data.rng import randint, single_hash, single_randint, single_uniform, uniform

SCALE, LEFT, TOP = range(3)  # draws of one image in one epoch; see also mixing.py
ATTEMPTS = 10  # of an aspect crop, and of an erased region, as published
REGION_DRAW = 100  # the first of its draws

TOLERANCE = 1 / 32  # of a pixel, by which a crop may lie beside its place


class Crop(Protocol):
    """What a worker makes of a picture."""

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        """Arrays (views, height, width, 3)."""


def to_array(picture: Picture) -> NDArray[np.uint8]:
    """A picture as one view, (1, H, W, 3)."""
    return as_pixels(picture).pixels[None]


def source_span(own: int, resized: int, start: int, size: int) -> tuple[int, int, int]:
    """For `size` pixels from `start` on of a line that is resized: the first of its own pixels that
    are needed and the one after the last, and how many of what they become come before `start`.
    """
    # Only from a whole pixel on can a line be resized. So it begins at one which is almost where
    # a pixel of the resized line begins: close before the crop, or else at the border.
    margin = math.ceil(max(1, resized / own))  # as far as the filter reaches
    near = TOLERANCE * resized
    late = near if (resized - start - size) * own >= near else 0  # else the last may be lost
    for before in range(margin, start):
        first, rest = divmod((start - before) * own + late, resized)
        if rest <= late + near:
            break
    else:
        first, before = 0, start
    step = own / resized
    last = min(own, math.ceil((start + size) * step + max(1, step)) + 1)
    if (last - first) * resized // own == last - first and own != resized:
        return 0, own, start  # torch copies what keeps its length, whatever the factor
    return int(first), last, before


def interpolate(pixels: NDArray[np.uint8], **how: Any) -> Tensor:
    """(H, W, 3) uint8 in another size or by other factors, bilinear with antialiasing, as one view,
    (1, H, W, 3)."""
    # In half of Pillow's time.
    image = torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2)  # which is channels_last
    found = torch.nn.functional.interpolate(image, mode="bilinear", antialias=True, **how)
    return found.permute(0, 2, 3, 1)


# Choice: zeros are padded after the mean is subtracted, so a border pixel is the mean pixel.
PAD_TOP, PAD_LEFT, PAD_FLIP = range(3)  # draws of a padded crop


def pad_crop_flip(
    images: Tensor, ids: Tensor, epochs: Tensor, seed: int, padding: int, mirror: bool
) -> Tensor:
    """Pad (B, 3, H, W) with zeros, cut HxW anywhere, toss a coin for the mirror (Sec. 4.2).

    One gather for the whole batch; the result lies in memory as channels_last.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    rows = torch.arange(height, device=images.device) + randint(
        2 * padding + 1, seed, epochs, ids, PAD_TOP
    ).unsqueeze(1)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    if mirror:
        coin = randint(2, seed, epochs, ids, PAD_FLIP).bool().unsqueeze(1)
        columns = torch.where(coin, columns.flip(-1), columns)
    columns = columns + randint(2 * padding + 1, seed, epochs, ids, PAD_LEFT).unsqueeze(1)  # (B, W)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    crops = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return crops.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ScaleCrop:
    """The paper's: the shorter side is a random integer in [256, 480], and 224x224 is cut
    anywhere."""

    size: int
    scales: tuple[int, int]
    seed: int

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        (width, height), left, top = self.place(image.size, image_id, epoch)
        first, last, before = source_span(image.size[0], width, left, self.size)
        high, low, above = source_span(image.size[1], height, top, self.size)
        # A little more, or a product that should be a whole number may be rounded down.
        factors = [
            (1 + 1e-9) * a / b for a, b in zip((height, width), image.size[::-1], strict=True)
        ]
        part = as_pixels(image).part(first, high, last, low)
        found = interpolate(part, scale_factor=factors, recompute_scale_factor=False)
        rows, columns = slice(above, above + self.size), slice(before, before + self.size)
        return [found[:, rows, columns].numpy()]

    def place(
        self, size: tuple[int, int], image_id: int, epoch: int
    ) -> tuple[tuple[int, int], int, int]:
        """For a picture of a (width, height): the one that it is resized to, and where the crop
        begins in it, (left, top)."""
        key = (self.seed, epoch, image_id)
        low, high = self.scales
        width, height = scaled_size(size, low + single_randint(high - low + 1, *key, SCALE))
        left = single_randint(width - self.size + 1, *key, LEFT)
        return (width, height), left, single_randint(height - self.size + 1, *key, TOP)


@dataclass(frozen=True)
class AspectCrop:
    """The later one (Szegedy et al. 2015): a region of random area and aspect, resized to a square.

    The area is 8 to 100 % of the picture's and the aspect between 3/4 and 4/3, as in torchvision.
    """

    size: int
    seed: int
    least: float = 0.08

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        left, top, right, bottom = self.box(image.size, image_id, epoch)
        part = as_pixels(image).part(left, top, right, bottom)
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


# Draws of an image in an epoch; those of crops are below 200. Photographs are mirrored by a
# number of their own, because PAD_FLIP is another draw of the crop.
MIRRORED, COLOUR, ERASED, ERASED_REGION = 200, 210, 300, 310
MIX_DRAW = 400  # the first of a batch's four: which, how much, and where; its image is -1

# The eigenvalues and, as rows, eigenvectors of the RGB values in [0, 1] of ImageNet's pixels
# (fb.resnet.torch). The values are the standard deviations along the vectors.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)

# Random erasing as in torchvision (Zhong et al. 2020): share of the area, height by width.
AREAS = (0.02, 0.33)
RATIOS = (0.3, 3.3)


def flip_mask(ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """Which of the images (B,) are mirrored."""
    return randint(2, seed, epochs, ids, MIRRORED).bool()


def random_flip(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """A coin for each of (B, 3, H, W): left becomes right or not (Sec. 3.4)."""
    coin = flip_mask(ids, epochs, seed)[:, None, None, None]
    return torch.where(coin, inputs.flip(-1), inputs)


def shift_colors(
    inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, sigma: float = 0.1
) -> Tensor:
    """AlexNet's colour shift (Sec. 3.4): one colour is added to all pixels of an image.

    Inputs (B, 3, H, W) are RGB in [0, 1], from which a mean may have been subtracted already, but
    which no deviation has divided.
    """
    return inputs + color_offsets(ids, epochs, seed, sigma).to(inputs.dtype)[:, :, None, None]


def color_offsets(ids: Tensor, epochs: Tensor, seed: int, sigma: float) -> Tensor:
    """What is added to each of the images, (B, 3) float64. Along each eigenvector of the colours
    the shift is normal, with its eigenvalue times sigma as the deviation."""
    axes = torch.arange(3, device=ids.device)
    draws = uniform(seed, epochs[:, None], ids[:, None], COLOUR + axes)  # (B, 3)
    normal: Tensor = torch.special.ndtri(draws.clamp(min=2.0**-54))  # of 0 it is infinite
    basis = torch.tensor(EIGENVECTORS, dtype=torch.float64, device=ids.device)
    values = torch.tensor(EIGENVALUES, dtype=torch.float64, device=ids.device)
    # A sum that is written out, not a product of matrices, whose digits depend on the batch.
    return ((sigma * normal * values)[:, :, None] * basis).sum(dim=1)


def random_erase(
    inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, probability: float
) -> Tensor:
    """Random erasing: a rectangle of some of (B, 3, H, W) becomes 0, the mean colour."""
    height, width = inputs.shape[2:]
    attempts = torch.arange(4 * ATTEMPTS, device=ids.device)
    draws = uniform(seed, epochs[:, None], ids[:, None], ERASED_REGION + attempts)
    area, ratio, top, left = draws.view(-1, ATTEMPTS, 4).unbind(dim=2)  # each (B, ATTEMPTS)
    pixels = height * width * (AREAS[0] + area * (AREAS[1] - AREAS[0]))
    low, high = map(math.log, RATIOS)
    aspect = torch.exp(low + ratio * (high - low))
    h, w = torch.sqrt(pixels * aspect).round(), torch.sqrt(pixels / aspect).round()
    fits = (h < height) & (w < width)  # (B, ATTEMPTS)
    top, left = (top * (height - h + 1)).floor(), (left * (width - w + 1)).floor()
    first = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    top, left, h, w = (x.gather(1, first) for x in (top, left, h, w))  # each (B, 1)
    chosen = fits.any(dim=1) & (uniform(seed, epochs, ids, ERASED) < probability)  # (B,)
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
    """Each image of one norm group, or of the batch, mixed with the one before it.

    Inputs (B, 3, H, W) and labels (B,) -> inputs (B, 3, H, W) and soft labels (B, classes). `mixup`
    (Zhang et al. 2018) and `cutmix` (Yun et al. 2019) are the alphas of their Beta distributions;
    where both are above 0, a coin chooses one of them for all images.
    """
    # Choice: as torchvision does, partners are neighbours, since the order is random already, and
    # one lambda is for all. The draws are made on the CPU, so they are equal on every device.
    alphas = [(alpha, part) for alpha, part in ((mixup, blend), (cutmix, paste)) if alpha > 0]
    targets = F.one_hot(labels, classes).float()
    if not alphas:
        return inputs, targets
    which, share, x, y = (float(uniform(seed, step, -1, MIX_DRAW + i)) for i in range(4))
    alpha, part = alphas[int(which * len(alphas))]
    inputs, kept = part(inputs, beta_quantile(alpha, share), (x, y))
    return inputs, kept * targets + (1 - kept) * targets.roll(1, 0)


def beta_quantile(alpha: float, share: float) -> float:
    """The number that Beta(alpha, alpha) falls below with this probability."""
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, share))


def blend(inputs: Tensor, kept: float, _: tuple[float, float]) -> tuple[Tensor, float]:
    """Mixup: a share of each image (B, 3, H, W), and the rest of its neighbour."""
    return kept * inputs + (1 - kept) * inputs.roll(1, 0), kept


def paste(inputs: Tensor, kept: float, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """CutMix: a box of the neighbour, cut off at the border, and the share that is left.

    The box's centre is given in [0, 1) of width and height.
    """
    height, width = inputs.shape[2:]
    left, right = _side(width, kept, centre[0])
    top, bottom = _side(height, kept, centre[1])
    result = inputs.clone()
    result[:, :, top:bottom, left:right] = inputs.roll(1, 0)[:, :, top:bottom, left:right]
    return result, 1 - (right - left) * (bottom - top) / (width * height)


def _side(length: int, kept: float, centre: float) -> tuple[int, int]:
    """Where a box begins and ends along one side of the image."""
    half = int(0.5 * math.sqrt(1 - kept) * length)
    middle = int(centre * length)
    return max(0, middle - half), min(length, middle + half)


TRIVIAL_DRAW = 500  # the draw that seeds it


def trivial_augment(image: Image.Image, image_id: int, epoch: int, seed: int) -> Image.Image:
    """One operation of fourteen on an RGB picture, at one strength of thirty-one."""
    before = torch.get_rng_state()
    # Not torch.manual_seed, which takes ten times as long, for it seeds every device there may be.
    torch.default_generator.manual_seed(single_hash(seed, epoch, image_id, TRIVIAL_DRAW))
    try:
        return trivial_transform()(image)  # type: ignore[no-any-return]
    finally:
        torch.set_rng_state(before)


@lru_cache
def trivial_transform() -> Any:
    """As in torchvision's recipe, "wide" and bilinear; what moves out of sight leaves black."""
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide

    return TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)


@dataclass(frozen=True)
class TrivialAugment:
    """What another cut makes of a picture, augmented.

    Where the mirror comes after it instead of before, nothing changes: each operation that knows a
    direction takes both signs equally often.
    """

    cut: Crop
    seed: int

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        views = [view for part in self.cut(image, image_id, epoch) for view in part]
        pictures = [Image.fromarray(view) for view in views]
        return [
            np.asarray(trivial_augment(picture, image_id, epoch, self.seed))[None]
            for picture in pictures
        ]
