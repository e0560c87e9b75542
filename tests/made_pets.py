"""Pictures of cats and dogs that are only noise."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, side: int = 32) -> Image.Image:
    """A picture that no other seed gives."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))


def pets(path: Path, *sets: str, each: int = 3) -> Path:
    """Cats and dogs in these sets, or in a plain folder."""
    for s, name in enumerate(sets or ("",)):
        for c, label in enumerate(("cat", "dog")):
            (path / name / label).mkdir(parents=True)
            for i in range(each):
                noise(1000 * s + 100 * c + i).save(path / name / label / f"{i}.jpg")
    return path
