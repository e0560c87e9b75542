"""The views of a photograph that a network is judged on, cut in a worker process (Sec. 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residual.data.crops import array
from residual.data.decode import LARGEST, Oversized, Picture, fitted, resized


def scaled(image: Picture, shorter: int) -> Image.Image:
    """A picture whose shorter side is made so many pixels. Raises Oversized for a mere stripe."""
    width, height = fitted(image.size, shorter)
    if width * height > LARGEST:
        raise Oversized(
            f"the picture is damaged: with a shorter side of {shorter} it would have "
            f"{width}x{height} pixels, more than {LARGEST:,}"
        )
    return resized(image, (height, width))


@dataclass(frozen=True)
class Crops:
    """The centre, or the four corners and the centre, one array of them for each shorter side.

    The mirrored five of AlexNet's ten crops are made where the network computes.
    """

    size: tuple[int, int]  # height and width of a crop
    sides: tuple[int, ...]
    corners: bool = False

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [self._of(scaled(image, side)) for side in self.sides]

    def _of(self, whole: Image.Image) -> NDArray[np.uint8]:
        (height, width), pixels = self.size, array(whole)
        right, bottom = whole.width - width, whole.height - height
        places = [(round(bottom / 2), round(right / 2))]
        if self.corners:
            places += [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        return np.concatenate([pixels[:, y : y + height, x : x + width] for y, x in places])

    @property
    def pixels(self) -> int:
        """Of a picture's views, to plan memory by."""
        return len(self.sides) * (5 if self.corners else 1) * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Wholes:
    """The whole picture, once for each shorter side."""

    sides: tuple[int, ...]

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [array(scaled(image, side)) for side in self.sides]

    @property
    def pixels(self) -> int:
        """Of a picture's views, about: most photographs are 4 to 3."""
        return sum(side * side * 4 // 3 for side in self.sides)


@dataclass(frozen=True)
class Each:
    """What each of several cuts makes of a picture, one after another."""

    cuts: Sequence[Crops | Wholes]

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [part for cut in self.cuts for part in cut(image, image_id, epoch)]

    @property
    def pixels(self) -> int:
        """Of a picture's views, about."""
        return sum(cut.pixels for cut in self.cuts)
