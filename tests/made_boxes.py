"""A folder in PASCAL VOC's form, drawn for tests: bright squares and dark bars on grey noise."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"bar": (20, 20, 160), "square": (230, 200, 40)}
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def draw_voc(
    folder: Path,
    n: int = 6,
    size: tuple[int, int] = (96, 72),
    labels: tuple[str, ...] = tuple(COLOURS),
) -> Path:
    """So many pictures in trainval and as many in test, every third of another size; the last of
    each has no object."""
    draw = np.random.default_rng(0)
    for place in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / place).mkdir(parents=True)
    for split in ("trainval", "test"):
        names = [f"{split}{i:03}" for i in range(n)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            width, height = size if i % 3 else size[::-1]
            pixels = draw.integers(90, 150, (height, width, 3)).astype(np.uint8)
            said = ""
            for label in labels if i < n - 1 else ():
                w, h = (24, 24) if label == "square" else (30, 16)
                x, y = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
                pixels[y : y + h, x : x + w] = COLOURS[label]
                said += OBJECT.format(label, 0, x + 1, y + 1, x + w, y + h)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            sides = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}.jpg</filename>{sides}{said}</annotation>"
            (folder / "Annotations" / f"{name}.xml").write_text(text)
    return folder
