"""The views of a photograph that a network is judged on, cut in a worker process (Sec. 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residual.data.augment import to_array
from residual.data.decode import MAX_PIXELS, OversizedImage, Picture, resize, scaled_size


def resize_shorter_side(image: Picture, shorter: int) -> Image.Image:
    """A picture whose shorter side is made so many pixels. Raises Oversized for a mere stripe."""
    width, height = scaled_size(image.size, shorter)
    if width * height > MAX_PIXELS:
        raise OversizedImage(
            f"the picture is damaged: with a shorter side of {shorter} it would have "
            f"{width}x{height} pixels, more than {MAX_PIXELS:,}"
        )
    return resize(image, (height, width))


def windows(
    whole: Image.Image, size: tuple[int, int], places: Sequence[tuple[int, int]]
) -> NDArray[np.uint8]:
    """The parts of a picture that begin at (top, left): (views, height, width, 3)."""
    (height, width), pixels = size, to_array(whole)
    return np.concatenate([pixels[:, y : y + height, x : x + width] for y, x in places])


def centre_and_corners(whole: Image.Image, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Where the five crops of a (height, width) begin: (top, left), the centre first."""
    bottom, right = whole.height - size[0], whole.width - size[1]
    centre = (round(bottom / 2), round(right / 2))
    return [centre, (0, 0), (0, right), (bottom, 0), (bottom, right)]


@dataclass(frozen=True)
class CenterCornerCrops:
    """The centre, or the four corners and the centre, one array of them for each shorter side.

    The mirrored five of AlexNet's ten crops are made where the network computes.
    """

    size: tuple[int, int]  # height and width of a crop
    sides: tuple[int, ...]
    corners: bool = False

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [self._of(resize_shorter_side(image, side)) for side in self.sides]

    def _of(self, whole: Image.Image) -> NDArray[np.uint8]:
        places = centre_and_corners(whole, self.size)
        return windows(whole, self.size, places if self.corners else places[:1])

    @property
    def pixels(self) -> int:
        """Of a picture's views, to plan memory by."""
        return len(self.sides) * (5 if self.corners else 1) * self.size[0] * self.size[1]


@dataclass(frozen=True)
class SquareCrops:
    """Of the square at each end and in the middle, the five crops, and all of it at their size.

    GoogLeNet's 144 crops (Szegedy et al. 2015), before they are mirrored: left to right of a
    picture that lies, top to bottom of one that stands.
    """

    size: tuple[int, int]  # height and width of a crop
    sides: tuple[int, ...]

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [self._of(resize_shorter_side(image, side)) for side in self.sides]

    def _of(self, whole: Image.Image) -> NDArray[np.uint8]:
        side, found = min(whole.size), []
        for part in (0, 0.5, 1):
            left, top = (round(part * (length - side)) for length in whole.size)
            square = whole.crop((left, top, left + side, top + side))
            found.append(windows(square, self.size, centre_and_corners(square, self.size)))
            found.append(to_array(resize(square, self.size)))
        return np.concatenate(found)

    @property
    def pixels(self) -> int:
        """Of a picture's views, to plan memory by."""
        return len(self.sides) * 18 * self.size[0] * self.size[1]


@dataclass(frozen=True)
class GridCrops:
    """Crops in five rows of five, for each shorter side: VGG's (Simonyan and Zisserman 2015)."""

    size: tuple[int, int]  # height and width of a crop
    sides: tuple[int, ...]

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [self._of(resize_shorter_side(image, side)) for side in self.sides]

    def _of(self, whole: Image.Image) -> NDArray[np.uint8]:
        # Choice: the "regular grid" reaches from border to border, in equal steps.
        bottom, right = whole.height - self.size[0], whole.width - self.size[1]
        steps = [step / 4 for step in range(5)]
        places = [(round(y * bottom), round(x * right)) for y in steps for x in steps]
        return windows(whole, self.size, places)

    @property
    def pixels(self) -> int:
        """Of a picture's views, to plan memory by."""
        return len(self.sides) * 25 * self.size[0] * self.size[1]


@dataclass(frozen=True)
class FullImages:
    """The whole picture, once for each shorter side."""

    sides: tuple[int, ...]

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [to_array(resize_shorter_side(image, side)) for side in self.sides]

    @property
    def pixels(self) -> int:
        """Of a picture's views, about: most photographs are 4 to 3."""
        return sum(side * side * 4 // 3 for side in self.sides)


Views = CenterCornerCrops | SquareCrops | GridCrops | FullImages
