"""TrivialAugmentWide (Müller, Hutter 2021), by torchvision, as a function of its key."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from residual.data.crops import Cut
from residual.data.draws import hashed

TRIVIAL = 230  # the draw


@dataclass(frozen=True)
class Altered:
    """A cut, and then one operation of random strength: of those for which it is published."""

    cut: Cut
    seed: int

    def __call__(self, image: Image.Image, image_id: int, epoch: int) -> list[NDArray[np.uint8]]:
        from torchvision.transforms import TrivialAugmentWide

        key = int(hashed(self.seed, epoch, image_id, TRIVIAL)) & 0x7FFFFFFFFFFFFFFF
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
            torch.manual_seed(key)
            alter = TrivialAugmentWide()
            return [
                np.stack([np.asarray(alter(Image.fromarray(view))) for view in views])
                for views in self.cut(image, image_id, epoch)
            ]
