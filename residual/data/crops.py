"""Which region of a photograph becomes a training image: Section 3.4, and the later recipe's."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import Picture, fitted
from residual.data.draws import hashed, single

SCALE, LEFT, TOP = range(3)  # draws of one image in one epoch; see also mixing.py
ATTEMPTS = 10  # of the aspect crop, as published
REGION = 100  # the first of its draws

Box = tuple[float, float, float, float]  # left, top, right, bottom in the picture's own pixels


class Cut(Protocol):
    """What a worker makes of a picture."""

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        """Arrays (views, height, width, 3)."""


def array(image: Image.Image) -> NDArray[np.uint8]:
    """A picture as one view, (1, H, W, 3)."""
    return np.asarray(image)[None]


def region(picture: Picture, size: int, box: Box) -> NDArray[np.uint8]:
    """A region of a picture, resized to a square, as one view; nothing else of it is resized."""
    across, down = ((end - start) / size for start, end in zip(box[:2], box[2:], strict=True))
    far, deep = max(1.0, across) + 1, max(1.0, down) + 1  # how far the filter reaches, and more
    left, top = max(0, int(box[0] - far)), max(0, int(box[1] - deep))
    right, bottom = math.ceil(box[2] + far), math.ceil(box[3] + deep)
    width, height = picture.size
    part = picture.crop((left, top, min(right, width), min(bottom, height)))
    own = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return array(part.resize((size, size), Image.Resampling.BILINEAR, box=own))


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
        return [region(image, self.size, self.box(image.size, image_id, epoch))]

    def box(self, size: tuple[int, int], image_id: int, epoch: int) -> Box:
        """The region of a picture of this (width, height)."""
        key = (self.seed, epoch, image_id)
        low, high = self.scales
        shorter = low + one_below(high - low + 1, *key, SCALE)
        width, height = fitted(size, shorter)
        left = one_below(width - self.size + 1, *key, LEFT)
        top = one_below(height - self.size + 1, *key, TOP)
        across, down = size[0] / width, size[1] / height
        return (
            left * across,
            top * down,
            min((left + self.size) * across, size[0]),
            min((top + self.size) * down, size[1]),
        )


@dataclass(frozen=True)
class AspectCrop:
    """The later one (Szegedy et al. 2015): a region of random area and aspect, resized to a square.

    The area is 8 to 100 % of the picture's and the aspect between 3/4 and 4/3, as in torchvision.
    """

    size: int
    seed: int
    least: float = 0.08

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [region(image, self.size, self.box(image.size, image_id, epoch))]

    def box(self, size: tuple[int, int], image_id: int, epoch: int) -> Box:
        """The region of a picture of this (width, height)."""
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
