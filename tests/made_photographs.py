"""A small folder of photographs, of most kinds that packing treats apart."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.preparation.pack import PackOptions, pack


def drawn(size: tuple[int, int], seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size)


def photographed(where: Path) -> Path:
    """Photographs of two classes: JPEG files, one large, one turned, one grey, and a PNG."""
    path = where / "pets"
    for place, n in (("train", 9), ("val", 4)):
        for light, label in enumerate(("cat", "dog")):
            (path / place / label).mkdir(parents=True)
            for i in range(n):
                image = drawn((44 + i, 36), 100 * light + i)
                image.save(path / place / label / f"{i}.jpg")
    cats = path / "train" / "cat"
    drawn((90, 120), 1).save(cats / "large.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn((40, 30), 2).save(cats / "turned.jpg", exif=exif)
    drawn((40, 30), 3).convert("L").save(cats / "grey.jpg")
    drawn((40, 30), 4).save(cats / "lossless.png")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return photographed(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("packed") / "jpeg"
    pack(folder, str(to), PackOptions(shorter=60, workers=2))
    return to
