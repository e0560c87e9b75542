"""What an annotation says of a picture, which boxes can be learned from, and examples of them."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from residual.data.datasets import fingerprint
from residual.data.filenames import few, shown
from residual.data.folder import QUICK_ABOVE
from residual.data.rng import order
from residual.tasks.detection.examples import Example
from residual.tasks.detection.recipe import ERROR, FRACTION, PIXELS, SKIP, Reading

READERS = 8  # threads; most of their time they wait for the disk
# Choice: a box may lie beyond the border of its picture by so many pixels, and is left as it is.
# Tools that count pixels from 0 write VOC files, too, and COCO's are rounded.
TOLERATED = 1
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A box as it is annotated, and what is wrong with it."""

    place: str  # in its file: box 3
    name: str  # of its class
    edges: Corners  # left, top, right, bottom, as the annotation counts them
    corners: Corners  # those of an example
    sides: tuple[float, float]  # width and height, as the annotation means them
    difficult: bool
    said: str  # the annotation's own numbers
    wrong: str = ""  # known when the box is placed in its picture: see frames.py

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
    wrong: str = ""  # a sentence, where it is said of a picture of another size
    untold: bool = False  # the picture is turned, and nothing tells whether its boxes are


@dataclass(frozen=True)
class Split:
    """What is said of every picture of a split."""

    pictures: tuple[Annotated, ...]
    classes: tuple[str, ...] | None = None  # where they are said; else those of the good boxes
    notices: tuple[str, ...] = ()  # sentences


def complaint(box: Box, size: tuple[float, float], reading: Reading) -> str:
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
    # Choice: nobody draws a box around the first pixel alone either, and tools write fractions.
    if reading.box_unit == PIXELS and min(box.edges) >= 0 and max(box.edges) <= 1:
        return (
            "has only numbers from 0 to 1; if they are fractions of the picture, say "
            f"--box-unit {FRACTION}"
        )
    beyond = max(-left, -top, right - size[0], bottom - size[1])
    if beyond > TOLERATED:
        return f"lies outside its picture of {size[0]:g}x{size[1]:g} pixels by {beyond:g}"
    return "" if box.name else "has no class"


def sentence(annotated: Annotated, box: Box) -> str:
    """What is wrong, with the file and the box."""
    return f"{annotated.file}: {box} {box.wrong}"


# ---- from what is said to examples --------------------------------------------------------------


def faults(name: str, pictures: Iterable[Annotated]) -> Iterator[ValueError | OSError]:
    """What is worse than a bad box."""
    files: dict[str, str] = {}
    seen: set[str] = set()
    for one in pictures:
        file = os.path.normpath(one.picture) if one.picture else ""
        if one.trouble is not None:
            yield one.trouble
        elif one.name in seen:
            yield ValueError(f"{name} has the picture {shown(one.name)} more than once")
        elif file in files:
            yield ValueError(
                f"{name} has the file {shown(file)} as two pictures, {shown(files[file])} and "
                f"{shown(one.name)}: objects of one would be background in the other"
            )
        seen.add(one.name)
        if file:
            files.setdefault(file, one.name)


def classes_of(split: Split) -> tuple[str, ...]:
    """The classes that are said, or else the names of the good boxes, sorted."""
    if split.classes is not None:
        return split.classes
    boxes = (box for one in split.pictures if not one.wrong for box in one.boxes)
    return tuple(sorted({box.name for box in boxes if not box.wrong}))


def examples_of(
    name: str, split: Split, classes: Sequence[str], bad: str
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Every picture of a split with its good boxes, and a sentence for each that is left out.

    Raises what is wrong with any picture, and ValueError at the first bad box, unless `bad` is
    skip, and at another class.
    """
    for fault in faults(name, split.pictures):
        raise fault
    others = tuple(one.wrong for one in split.pictures if one.wrong)
    own = [one for one in split.pictures if not one.wrong]
    skipped = tuple(sentence(one, box) for one in own for box in one.boxes if box.wrong)
    if bad == ERROR:
        size = "annotation of another size", "annotations of another size", "pictures"
        refuse(name, others, size)
        refuse(name, skipped, ("bad box", "bad boxes", "boxes"))
    if skipped and len(skipped) == sum(len(one.boxes) for one in own):
        raise ValueError(f"{skipped[0]}; no box of {name} is good")
    if not own:
        why = f"{others[0]}; so do all of {name}" if others else f"{name} has no pictures"
        raise ValueError(why)
    known = {label: place for place, label in enumerate(classes)}
    return tuple(example(one, known) for one in own), others + skipped


def refuse(name: str, sentences: Sequence[str], words: tuple[str, str, str]) -> None:
    """Raise the first, with what is wrong in singular and plural, and what would be left out."""
    if sentences:
        one, many, left_out = words
        n = len(sentences)
        which = f"the first of {n:,} {many}" if n > 1 else f"the only {one}"
        raise ValueError(
            f"{sentences[0]}; it is {which} of {name}, and --bad-boxes {SKIP} leaves out such "
            f"{left_out}"
        )


def example(annotated: Annotated, known: dict[str, int]) -> Example:
    """A picture with its good boxes. Raises ValueError where one is of no known class."""
    boxes = [box for box in annotated.boxes if not box.wrong]
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


def part_of(name: str, split: Split, part: str) -> Split:
    """What is learned from, or tested on, of a split that is divided once. Raises ValueError."""
    # Choice: a fifth of the pictures, rounded, drawn by the same integer hash as all else; the
    # split depends on nothing but how many pictures there are, by their names.
    for fault in faults(name, split.pictures):
        raise fault
    pictures = sorted(split.pictures, key=lambda one: str(one.picture))
    n = len(pictures)
    if n < 2:
        raise ValueError(f"{name} has {n} pictures, and a set that is divided needs two")
    out = set(order(0, 0, n)[: max(1, round(n / 5))].tolist())
    own = tuple(one for i, one in enumerate(pictures) if (i in out) == (part == "test"))
    return Split(own, classes_of(split), split.notices)


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
