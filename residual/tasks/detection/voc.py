"""PASCAL VOC: a file of boxes for each picture, and lists of pictures."""

import hashlib
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from xml.parsers import expat

from residual.data.filenames import lines_in, shown
from residual.tasks.detection import layouts
from residual.tasks.detection.annotations import READERS, Annotated, Box, Split
from residual.tasks.detection.layouts import LISTS, Place, lists

LARGEST = 16 << 20  # bytes of an annotation; the largest of VOC 2007 and 2012 has less than 20 KB
YEAR = re.compile(r"VOC\d\d(\d\d)")
TERM = re.compile(r"(\d\d)(.*)")
SIDES = ("xmin", "ymin", "xmax", "ymax")
DEEPEST = 4  # annotation, object, bndbox, xmin


# ---- which pictures -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A picture, as a list names it, in one year's folder."""

    year: Path
    name: str


def is_voc(folder: Path) -> bool:
    return bool(places(folder))


def places(folder: Path) -> dict[str, Place]:
    """The place of a folder, or those of its sets or years by name."""
    if layouts.plain(folder):
        own = layouts.place(folder)
        return {"": own} if own else {}
    if own_years := years(folder):
        found = ((year, layouts.place(one)) for year, one in own_years.items())
        return {year: one for year, one in found if one is not None}
    if sets := layouts.set_places(folder):
        return sets
    own = layouts.place(folder) if folder.is_dir() else None
    return {"": own} if own else {}


def devkit(folder: Path) -> Path:
    return folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder


def years(folder: Path) -> dict[str, Path]:
    """The folders of the years in a devkit: 07, 12."""
    inside = layouts.folders(devkit(folder))
    return {
        match[1]: one
        for one in inside
        if (match := YEAR.fullmatch(one.name)) and layouts.plain(one)
    }


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of a folder, each list by itself."""
    own = places(folder)
    if "" in own:
        return tuple(lists(folder) or layouts.split_names(own[""]))
    if own_years := years(folder):
        return tuple(f"{year}{name}" for year, one in own_years.items() for name in lists(one))
    return tuple(own)


def members(folder: Path, split: str) -> list[Member]:
    """The pictures of a split: trainval, test or any other list in ImageSets/Main, or a set's
    folder; all pictures where there is neither.

    In a devkit also 07 and 12 (trainval of the year), 07test (another list of it), 07+12 (both),
    and 07++12 (trainval and test of the first, trainval of the second). Raises ValueError.
    """
    own = places(folder)
    if "" in own and not lists(folder):
        named = layouts.split_names(own[""])
        if split in named:
            return [Member(folder, name) for name in named[split]]
    elif "" not in own and not years(folder):
        if split in own:
            return [Member(own[split].folder, name) for name in layouts.annotations_of(own[split])]
    else:
        parts = [(folder, split)] if "" in own else terms(years(folder), split)
        there = {year: lists(year) for year, _ in parts}
        if parts and all(name in there[year] for year, name in parts):
            return [
                Member(year, name) for year, one in parts for name in lines_in(there[year][one])
            ]
    known = ", ".join(map(shown, splits(folder))) or f"none, for no list lies in {LISTS}"
    raise ValueError(f"{folder} has no split {split!r}; it has {known}")


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


def read(folder: Path, split: str) -> Split:
    """Every picture of a split with its annotation, or with what is wrong."""
    chosen = members(folder, split)
    there = {own.folder: Contents.of(own) for own in places(folder).values()}
    one = partial(annotated, folder)
    with ThreadPoolExecutor(READERS) as pool:
        return Split(tuple(pool.map(one, chosen, [there[member.year] for member in chosen])))


@dataclass(frozen=True)
class Contents:
    """What lies in a place, by name."""

    place: Place
    annotations: dict[str, Path]
    pictures: dict[str, Path]

    @classmethod
    def of(cls, own: Place) -> "Contents":
        return cls(own, layouts.annotations_of(own), layouts.pictures_of(own))

    def meant(self, line: str) -> str:
        """The name of the picture that a line of a list means."""
        names = ["", *layouts.candidates(line)]
        fits = (name for name in names if name in self.annotations or name in self.pictures)
        return next(fits, names[-1])  # which is never a path of another machine


def annotated(folder: Path, member: Member, there: Contents) -> Annotated:
    """A picture and its annotation. What is wrong is not raised, but said."""
    name = there.meant(member.name)
    path = there.annotations.get(name, there.place.annotations / f"{name}.xml")
    said = Annotated(name, path.relative_to(folder).as_posix(), there.pictures.get(name))
    try:
        if not path.is_file():
            raise FileNotFoundError(f"there is no annotation {shown(path)}, which {LISTS} names")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{shown(path)} is no annotation: it has more than {LARGEST:,} bytes")
        raw = path.read_bytes()
        size, boxes = parsed(raw, path)
    except (OSError, ValueError) as error:
        return replace(said, trouble=error)
    if said.picture is None:
        where = shown(there.place.pictures / name)
        lost = FileNotFoundError(
            f"there is no picture {where} (.jpg, .png ...), which {shown(path)} is about"
        )
        return replace(said, boxes=boxes, trouble=lost)
    return replace(said, size=size, boxes=boxes, digest=hashlib.sha256(raw).hexdigest())


def unpaired(folder: Path) -> tuple[list[Path], list[Path]]:
    """Annotations without picture, and pictures without annotation, in any year."""
    lonely: list[Path] = []
    bare: list[Path] = []
    for there in map(Contents.of, places(folder).values()):
        pictures, said = there.pictures, there.annotations
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
        (left, top, right, bottom),
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
