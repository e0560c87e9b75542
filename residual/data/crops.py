"""Which region of a photograph becomes a training image: Section 3.4, and the later recipe's."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual.data.decode import Picture, as_pixels, fitted
from residual.data.draws import hashed, single

SCALE, LEFT, TOP = range(3)  # draws of one image in one epoch; see also mixing.py
ATTEMPTS = 10  # of the aspect crop, as published
REGION = 100  # the first of its draws

NEAR = 1 / 32  # of a pixel, by which a crop may lie beside its place


class Cut(Protocol):
    """What a worker makes of a picture."""

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        """Arrays (views, height, width, 3)."""


def array(picture: Picture) -> NDArray[np.uint8]:
    """A picture as one view, (1, H, W, 3)."""
    return as_pixels(picture).pixels[None]


def span(own: int, resized: int, start: int, size: int) -> tuple[int, int, int]:
    """For `size` pixels from `start` on of a line that is resized: the first of its own pixels that
    are needed and the one after the last, and how many of what they become come before `start`.
    """
    # Only from a whole pixel on can a line be resized. So it begins at one which is almost where
    # a pixel of the resized line begins: close before the crop, or else at the border.
    margin = math.ceil(max(1, resized / own))  # as far as the filter reaches
    near = NEAR * resized
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


def interpolated(pixels: NDArray[np.uint8], **how: Any) -> Tensor:
    """(H, W, 3) uint8 in another size or by other factors, bilinear with antialiasing, as one view,
    (1, H, W, 3)."""
    # In half of Pillow's time.
    image = torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2)  # which is channels_last
    found = torch.nn.functional.interpolate(image, mode="bilinear", antialias=True, **how)
    return found.permute(0, 2, 3, 1)


def unit(*key: Tensor | int) -> Tensor:
    """Numbers in [0, 1), float64, one for each key."""
    return ((hashed(*key) >> 11) & 0x1FFFFFFFFFFFFF).double() / 2**53


def one_below(n: int, *key: int) -> int:
    """`below` of one key, in plain integers: a box costs a fortieth of what it does in tensors."""
    return (single(*key) >> 1 & 0x3FFFFFFFFFFFFFFF) % n


def one_unit(*key: int) -> float:
    """`unit` of one key, likewise."""
    return (single(*key) >> 11) / 2**53


@dataclass(frozen=True)
class ScaleCrop:
    """The paper's: the shorter side is a random integer in [256, 480], and 224x224 is cut
    anywhere."""

    size: int
    scales: tuple[int, int]
    seed: int

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        (width, height), left, top = self.place(image.size, image_id, epoch)
        first, last, before = span(image.size[0], width, left, self.size)
        high, low, above = span(image.size[1], height, top, self.size)
        # A little more, or a product that should be a whole number may be rounded down.
        factors = [
            (1 + 1e-9) * a / b for a, b in zip((height, width), image.size[::-1], strict=True)
        ]
        part = as_pixels(image).part(first, high, last, low)
        found = interpolated(part, scale_factor=factors, recompute_scale_factor=False)
        rows, columns = slice(above, above + self.size), slice(before, before + self.size)
        return [found[:, rows, columns].numpy()]

    def place(
        self, size: tuple[int, int], image_id: int, epoch: int
    ) -> tuple[tuple[int, int], int, int]:
        """For a picture of a (width, height): the one that it is resized to, and where the crop
        begins in it, (left, top)."""
        key = (self.seed, epoch, image_id)
        low, high = self.scales
        width, height = fitted(size, low + one_below(high - low + 1, *key, SCALE))
        left = one_below(width - self.size + 1, *key, LEFT)
        return (width, height), left, one_below(height - self.size + 1, *key, TOP)


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
        return [interpolated(part, size=(self.size, self.size)).numpy()]

    def box(self, size: tuple[int, int], image_id: int, epoch: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of this (width, height)."""
        width, height = size
        for first in range(REGION, REGION + 4 * ATTEMPTS, 4):
            area, aspect, left, top = (
                one_unit(self.seed, epoch, image_id, first + draw) for draw in range(4)
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
