"""PASCAL VOC: a file of boxes for each picture, and lists of pictures."""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from xml.parsers import expat

from residual.detection.examples import Scenes
from residual.detection.validity import ERROR, READERS, Annotated, Box, scenes

ANNOTATIONS, LISTS, PICTURES = "Annotations", "ImageSets/Main", "JPEGImages"
ENDINGS = (".jpg", ".jpeg", ".png")
LARGEST = 16 << 20  # bytes of an annotation; the largest of VOC 2007 and 2012 has less than 20 KB
YEAR = re.compile(r"VOC\d\d(\d\d)")
TERM = re.compile(r"(\d\d)(.*)")
OF_A_CLASS = re.compile(r"\S+\s+(-1|0|1)")  # a line of a list that says which pictures have a cat
SIDES = ("xmin", "ymin", "xmax", "ymax")
DEEPEST = 4  # annotation, object, bndbox, xmin


def voc(
    folder: Path, split: str, classes: tuple[str, ...] | None = None, bad_boxes: str = ERROR
) -> Scenes:
    """The pictures of a split, of one year's folder or of a devkit; see `members` for its name.

    Without classes they are those of the split, by name. Raises FileNotFoundError and ValueError,
    in a sentence, where something is missing or damaged; see `validity.scenes` for bad boxes.
    """
    own = folder if plain(folder) else devkit(folder)
    return scenes(own.resolve().name, split, "voc", read(folder, split), classes, bad_boxes)


# ---- which pictures -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A picture's name in one year's folder."""

    year: Path
    name: str


def is_voc(folder: Path) -> bool:
    return plain(folder) or bool(years(folder))


def plain(folder: Path) -> bool:
    """Whether a folder is that of one year, or of the same form."""
    return (folder / LISTS).is_dir() or (
        (folder / ANNOTATIONS).is_dir() and (folder / PICTURES).is_dir()
    )


def devkit(folder: Path) -> Path:
    return folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder


def years(folder: Path) -> dict[str, Path]:
    """The folders of the years in a devkit: 07, 12."""
    inside = sorted(devkit(folder).iterdir()) if devkit(folder).is_dir() else []
    return {match[1]: one for one in inside if (match := YEAR.fullmatch(one.name)) and plain(one)}


def lists(year: Path) -> dict[str, Path]:
    """The lists of pictures in one year's folder, but for those about one class."""
    return {
        file.stem: file
        for file in sorted((year / LISTS).glob("*.txt"))
        if not OF_A_CLASS.fullmatch(next(lines(file), ""))
    }


def lines(file: Path) -> Iterator[str]:
    """What is on each line that is not empty."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as opened:
        yield from (line.strip() for line in opened if line.strip())


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of a folder, each list by itself."""
    if plain(folder):
        return tuple(lists(folder))
    return tuple(f"{year}{name}" for year, own in years(folder).items() for name in lists(own))


def members(folder: Path, split: str) -> list[Member]:
    """The pictures of a split: trainval, test or any other list in ImageSets/Main.

    In a devkit also 07 and 12 (trainval of the year), 07test (another list of it), 07+12 (both),
    and 07++12 (trainval and test of the first, trainval of the second). Raises ValueError.
    """
    parts = [(folder, split)] if plain(folder) else terms(years(folder), split)
    there = {year: lists(year) for year, _ in parts}
    if not parts or any(name not in there[year] for year, name in parts):
        known = ", ".join(splits(folder)) or f"none, for no list lies in {LISTS}"
        raise ValueError(f"{folder} has no split {split!r}; it has {known}")
    return [Member(year, name) for year, own in parts for name in lines(there[year][own])]


def terms(there: dict[str, Path], split: str) -> list[tuple[Path, str]]:
    """The years and lists that make up a split of a devkit; none where it is not understood."""
    with_it = {year: own for year, own in there.items() if split in lists(own)}
    if len(with_it) > 1:
        ways = [f"{year}{split}" for year in with_it]
        raise ValueError(
            f"{' and '.join(own.name for own in with_it.values())} both have a split {split!r}; "
            f"take {', '.join(ways)} or {'+'.join(ways)}"
        )
    if with_it:
        return [(own, split) for own in with_it.values()]
    split = re.sub(r"^(\d\d)\+\+", r"\1+\1test+", split)
    matches = [TERM.fullmatch(term) for term in split.split("+")]
    found = [(there[m[1]], m[2] or "trainval") for m in matches if m and m[1] in there]
    return found if len(found) == len(matches) else []


# ---- what is said of them -----------------------------------------------------------------------


def read(folder: Path, split: str) -> list[Annotated]:
    """Every picture of a split with its annotation, or with what is wrong."""
    pictures = cache(pictures_of)
    one = partial(annotated, folder)
    chosen = members(folder, split)
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, chosen, [pictures(member.year) for member in chosen]))


def pictures_of(year: Path) -> dict[str, Path]:
    """The pictures of a year by name."""
    place = year / PICTURES
    if not place.is_dir():
        return {}
    found = {}
    for root, folders, files in os.walk(place):
        folders.sort()
        for file in sorted(files, reverse=True):  # of 1.jpg and 1.png, the first is taken
            path = Path(root, file)
            if path.suffix.lower() in ENDINGS:
                found[path.relative_to(place).with_suffix("").as_posix()] = path
    return found


def annotated(folder: Path, member: Member, pictures: dict[str, Path]) -> Annotated:
    """A picture and its annotation. What is wrong is not raised, but said."""
    path = member.year / ANNOTATIONS / f"{member.name}.xml"
    said = Annotated(member.name, path.relative_to(folder).as_posix(), pictures.get(member.name))
    try:
        if not path.is_file():
            raise FileNotFoundError(f"there is no annotation {path}, which {LISTS} names")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is no annotation: it has more than {LARGEST:,} bytes")
        raw = path.read_bytes()
        size, boxes = parsed(raw, path)
    except (OSError, ValueError) as error:
        return replace(said, trouble=error)
    if said.picture is None:
        place, endings = member.year / PICTURES / member.name, ", ".join(ENDINGS)
        lost = FileNotFoundError(f"there is no picture {place} ({endings}), which {path} is about")
        return replace(said, boxes=boxes, trouble=lost)
    return replace(said, size=size, boxes=boxes, digest=hashlib.sha256(raw).hexdigest())


def unpaired(folder: Path) -> tuple[list[Path], list[Path]]:
    """Annotations without picture, and pictures without annotation, in any year."""
    lonely: list[Path] = []
    bare: list[Path] = []
    for year in [folder] if plain(folder) else years(folder).values():
        pictures, place = pictures_of(year), year / ANNOTATIONS
        said = {f.relative_to(place).with_suffix("").as_posix(): f for f in place.rglob("*.xml")}
        lonely += [said[name] for name in sorted(said.keys() - pictures.keys())]
        bare += [pictures[name] for name in sorted(pictures.keys() - said.keys())]
    return lonely, bare


Words = dict[tuple[str, ...], str]  # of elements, by their names from the root's child on


def parsed(raw: bytes, path: Path) -> tuple[tuple[float, float] | None, tuple[Box, ...]]:
    """The size that an annotation tells, where it does, and its boxes. Raises ValueError.

    Only what stands in an object itself counts: its parts (head, hand) have boxes of their own.
    """
    about: Words = {}
    objects: list[Words] = []
    try:
        for words in elements(raw):
            if ("object",) in words:
                objects.append(words)
            else:
                about |= words
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    size = (number(about, "size", "width"), number(about, "size", "height"))
    boxes = tuple(box(words, place) for place, words in enumerate(objects, start=1))
    return (size if all(side > 0 for side in size) else None), boxes


def elements(raw: bytes) -> list[Words]:
    """The words in each child of the root. Nothing is expanded, and nothing else is read."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    stack: list[str] = []
    text: list[str] = []
    found: list[Words] = []

    def start(name: str, _: dict[str, str]) -> None:
        stack.append(name)
        text.clear()
        if len(stack) == 2:
            found.append({})

    def end(_: str) -> None:
        if 2 <= len(stack) <= DEEPEST:
            found[-1][tuple(stack[1:])] = "".join(text).strip()
        stack.pop()
        text.clear()

    def declared(*_: object) -> None:
        raise ValueError("it declares a document type, and with it perhaps entities")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = declared
    parser.Parse(raw, True)
    return found


def box(words: Words, place: int) -> Box:
    """The box of an object: VOC counts pixels from 1 and names the last one inside."""
    said = [words.get(("object", "bndbox", side), "") for side in SIDES]
    left, top, right, bottom = (number(words, "object", "bndbox", side) for side in SIDES)
    return Box(
        f"box {place}",
        words.get(("object", "name"), ""),
        (left - 1, top - 1, right, bottom),
        (right - left, bottom - top),
        words.get(("object", "difficult"), "0") not in ("", "0"),
        ", ".join(f"{side} {word or 'missing'}" for side, word in zip(SIDES, said, strict=True)),
    )


def number(words: Words, *place: str) -> float:
    """What stands there as a number; what is none is no number."""
    try:
        return float(words[place])
    except (KeyError, ValueError):
        return math.nan
