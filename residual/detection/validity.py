"""What an annotation says of a picture, which boxes can be learned from, and examples of them."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import ExifTags, Image

from residual.data.check import few
from residual.data.decode import naming, opened
from residual.data.folder import QUICK_ABOVE
from residual.data.images import fingerprint
from residual.detection.examples import Example, Scenes

READERS = 8  # threads; most of their time they wait for the disk
# Choice: a box may lie beyond the border of its picture by so many pixels, and is left as it is.
# Tools that count pixels from 0 write VOC files, too, and COCO's are rounded.
TOLERATED = 1
SIDEWAYS = range(5, 9)  # EXIF orientations that turn a picture by a quarter
ERROR, SKIP = "error", "skip"  # what is done about a bad box
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A box as it is annotated, before anybody has looked whether it is one."""

    place: str  # in its file: box 3
    name: str  # of its class
    corners: Corners  # those of an example
    sides: tuple[float, float]  # width and height, as the annotation means them
    difficult: bool
    said: str  # the annotation's own numbers

    def __str__(self) -> str:
        return f"{self.place} ({self.name or 'without a class'}: {self.said})"


@dataclass(frozen=True)
class Annotated:
    """A picture, and what is said of it."""

    name: str
    file: str  # where it is said
    picture: Path | None = None
    size: tuple[float, float] | None = None  # (width, height), where it is said
    boxes: tuple[Box, ...] = ()
    digest: str = ""  # of what is said
    trouble: ValueError | OSError | None = None  # why nothing can be learned from it


def complaint(box: Box, size: tuple[float, float]) -> str:
    """What is wrong with a box in a picture of this (width, height); nothing where it is good."""
    left, top, right, bottom = box.corners
    if not all(map(math.isfinite, box.corners)):
        return "is not four finite numbers"
    if min(box.sides) < 0:
        return "is inverted"
    # Choice: a VOC box whose last pixel is its first is empty. By the devkit's count it is one
    # pixel wide, but nobody draws such a box, and a slip of the mouse does.
    if min(box.sides) == 0:
        return "is empty"
    beyond = max(-left, -top, right - size[0], bottom - size[1])
    if beyond > TOLERATED:
        return f"lies outside its picture of {size[0]:g}x{size[1]:g} pixels by {beyond:g}"
    return "" if box.name else "has no class"


def judged(annotated: Annotated) -> list[tuple[Box, str]]:
    """Each box of a picture with what is wrong with it, which is nothing where it is good.

    Raises Damaged where the picture's header is needed and cannot be read.
    """
    size = size_of(annotated) if annotated.boxes else (0, 0)
    return [(box, complaint(box, size)) for box in annotated.boxes]


def sentence(annotated: Annotated, box: Box, wrong: str) -> str:
    """What is wrong, with the file and the box."""
    return f"{annotated.file}: {box} {wrong}"


def size_of(annotated: Annotated) -> tuple[float, float]:
    """The (width, height) that is annotated, or else the one in the picture's own header."""
    if annotated.size is not None or annotated.picture is None:
        return annotated.size or (math.inf, math.inf)
    with naming(str(annotated.picture)):
        return seen_size(header(annotated.picture))


def seen_size(image: Image.Image) -> tuple[int, int]:
    """The (width, height) of a picture as it is seen, whose header alone was read."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
    return image.size[::-1] if turned else image.size


def header(picture: Path) -> Image.Image:
    """A picture of which nothing is decoded. Raises what Pillow's readers raise."""
    with picture.open("rb") as file:
        return opened(file.read())


# ---- from what is said to examples --------------------------------------------------------------


def scenes(
    source: str,
    split: str,
    sort: str,
    all_annotated: Sequence[Annotated],
    classes: tuple[str, ...] | None,
    bad: str,
) -> Scenes:
    """One split, whole: every picture in it, with its good boxes.

    Without classes they are the names of the good boxes, sorted. Raises what is wrong with any
    picture, and ValueError at the first bad box, unless `bad` is skip, and at another class.
    """
    if bad not in (ERROR, SKIP):
        raise ValueError(f"there is {ERROR} and {SKIP} for bad boxes, and no {bad!r}")
    name = f"{source} {split}"
    refuse(name, all_annotated)
    judgements = [(annotated, judged(annotated)) for annotated in all_annotated]
    skipped = tuple(
        sentence(annotated, box, wrong)
        for annotated, own in judgements
        for box, wrong in own
        if wrong
    )
    if skipped and bad == ERROR:
        which = f"the first of {len(skipped):,} bad boxes" if skipped[1:] else "the only bad box"
        raise ValueError(
            f"{skipped[0]}; it is {which} of {name}, and --bad-boxes {SKIP} leaves out such boxes"
        )
    good = [(annotated, [box for box, wrong in own if not wrong]) for annotated, own in judgements]
    if classes is None:
        classes = tuple(sorted({box.name for _, boxes in good for box in boxes}))
    known = {label: place for place, label in enumerate(classes)}
    examples = tuple(example(annotated, boxes, known) for annotated, boxes in good)
    return Scenes(name, classes, examples, marked(split, all_annotated), skipped, sort)


def refuse(name: str, all_annotated: Iterable[Annotated]) -> None:
    """Raise what is worse than a bad box."""
    seen: set[str] = set()
    for annotated in all_annotated:
        if annotated.trouble is not None:
            raise annotated.trouble
        if annotated.name in seen:
            raise ValueError(f"{name} has the picture {annotated.name} more than once")
        seen.add(annotated.name)
    if not seen:
        raise ValueError(f"{name} has no pictures")


def example(annotated: Annotated, boxes: list[Box], known: dict[str, int]) -> Example:
    """A picture with boxes whose classes are known. Raises ValueError at another class."""
    for box in boxes:
        if box.name not in known:
            raise ValueError(
                f"{annotated.file}: {box.place} is of class {box.name!r}, which is none of the "
                f"classes {few(list(known))}"
            )
    assert annotated.picture is not None
    return Example(
        annotated.picture,
        annotated.name,
        torch.tensor([box.corners for box in boxes], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([known[box.name] for box in boxes], dtype=torch.int64),
        torch.tensor([box.difficult for box in boxes], dtype=torch.bool),
    )


def marked(split: str, all_annotated: Iterable[Annotated]) -> str:
    """The fingerprint over the split's name, the annotations, and the pictures' bytes.

    Of more than 5 GB, sizes stand for bytes, and the fingerprint says so: see `data/folder.py`.
    """
    pictures = [annotated.picture for annotated in all_annotated if annotated.picture is not None]
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(lambda picture: picture.stat().st_size, pictures))
        hashed = sum(sizes) <= QUICK_ABOVE
        hashes = list(pool.map(sha256, pictures)) if hashed else [""] * len(pictures)
    said = [(annotated.name, annotated.digest) for annotated in all_annotated]
    entries = [(*one, size, own) for one, size, own in zip(said, sizes, hashes, strict=True)]
    mark = fingerprint([(split, "", 0, ""), *entries])
    return mark if hashed else f"quick-{mark}"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
