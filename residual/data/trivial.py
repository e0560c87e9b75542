"""TrivialAugment (Müller and Hutter, 2021), keyed by the seed, the epoch and the image."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from residual.data.crops import Cut
from residual.data.decode import Picture
from residual.data.draws import single

TRIVIAL = 500  # the draw that seeds it


def trivially_augmented(image: Image.Image, image_id: int, epoch: int, seed: int) -> Image.Image:
    """One operation of fourteen on an RGB picture, at one strength of thirty-one."""
    before = torch.get_rng_state()
    # Not torch.manual_seed, which takes ten times as long, for it seeds every device there may be.
    torch.default_generator.manual_seed(single(seed, epoch, image_id, TRIVIAL))
    try:
        return augmentation()(image)  # type: ignore[no-any-return]
    finally:
        torch.set_rng_state(before)


@lru_cache
def augmentation() -> Any:
    """As in torchvision's recipe, "wide" and bilinear; what moves out of sight leaves black."""
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide

    return TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)


@dataclass(frozen=True)
class TrivialAugment:
    """What another cut makes of a picture, augmented.

    Where the mirror comes after it instead of before, nothing changes: each operation that knows a
    direction takes both signs equally often.
    """

    cut: Cut
    seed: int

    def __call__(self, image: Picture, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        views = [view for part in self.cut(image, image_id, epoch) for view in part]
        pictures = [Image.fromarray(view) for view in views]
        return [
            np.asarray(trivially_augmented(picture, image_id, epoch, self.seed))[None]
            for picture in pictures
        ]
