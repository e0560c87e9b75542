"""The crops of a test image: centre, 10-crop, multi-scale, VGG's grid and GoogLeNet's 144 crops."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residual.data.decode import Picture, check_scaled_size, damage_context, resize, scaled_size

ViewKind = Literal["centre", "corners", "squares", "grid", "whole"]
VIEWS: dict[ViewKind, int] = {  # of a picture at one size, before they are mirrored
    "centre": 1,
    "corners": 5,  # four, and the centre
    "squares": 18,  # three squares; of each the corners, the centre, and all of it made small
    "grid": 25,  # five by five
    "whole": 1,  # the network is applied fully convolutionally
}


@dataclass(frozen=True)
class Views:
    """Fixed crops of a picture, one array of them for each shorter side (Sec. 3.4).

    Mirrored crops, such as five of AlexNet's ten, are made on the device. `squares` are GoogLeNet's
    (Szegedy et al. 2015): of the square at each end and in the middle, the five crops, and all of
    it at their size. `grid` is VGG's (Simonyan and Zisserman 2015), in five rows of five. `whole`
    is the uncropped picture.
    """

    kind: ViewKind
    size: tuple[int, int]  # height and width of a crop
    sides: tuple[int, ...]

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        return [self._cut(resize_shorter_side(image, side)) for side in self.sides]

    def _cut(self, image: Image.Image) -> NDArray[np.uint8]:
        match self.kind:
            case "centre" | "corners":
                places = _center_and_corners(image, self.size)[: VIEWS[self.kind]]
                return _crops(image, self.size, places)
            case "squares":
                return self._squares(image)
            case "grid":
                # Choice: the "regular grid" reaches from border to border, in equal steps.
                bottom, right = image.height - self.size[0], image.width - self.size[1]
                steps = [step / 4 for step in range(5)]
                places = [(round(y * bottom), round(x * right)) for y in steps for x in steps]
                return _crops(image, self.size, places)
        return np.asarray(image)[None]

    def _squares(self, image: Image.Image) -> NDArray[np.uint8]:
        side, views = min(image.size), []
        for position in (0, 0.5, 1):
            left, top = (round(position * (length - side)) for length in image.size)
            square = image.crop((left, top, left + side, top + side))
            views.append(_crops(square, self.size, _center_and_corners(square, self.size)))
            views.append(np.asarray(resize(square, self.size))[None])
        return np.concatenate(views)

    @property
    def pixels(self) -> int:
        """Of a picture's views, to plan memory by. Most photographs are 4 to 3."""
        if self.kind == "whole":
            return sum(side * side * 4 // 3 for side in self.sides)
        return len(self.sides) * VIEWS[self.kind] * self.size[0] * self.size[1]


def resize_shorter_side(image: Picture, shorter: int) -> Image.Image:
    """A picture with this shorter side. Raises OversizedImage for one that would be too long."""
    with damage_context("the picture"):
        check_scaled_size(image.size, shorter)
    width, height = scaled_size(image.size, shorter)
    return resize(image, (height, width))


def _crops(
    image: Image.Image, size: tuple[int, int], places: Iterable[tuple[int, int]]
) -> NDArray[np.uint8]:
    """Crops of a (height, width) at these (top, left): (views, height, width, 3)."""
    (height, width), pixels = size, np.asarray(image)
    return np.stack([pixels[y : y + height, x : x + width] for y, x in places])


def _center_and_corners(image: Image.Image, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of the five crops, the centre first."""
    bottom, right = image.height - size[0], image.width - size[1]
    center = (round(bottom / 2), round(right / 2))
    return [center, (0, 0), (0, right), (bottom, 0), (bottom, right)]
