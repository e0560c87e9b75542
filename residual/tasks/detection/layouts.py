"""Where a file of boxes for each picture, the pictures, and lists of them lie."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from residual.data.filenames import EVERY_SUFFIX, is_hidden, is_picture, lines_in, set_of

# As the devkit has them.
ANNOTATIONS, LISTS, PICTURES = "Annotations", "ImageSets/Main", "JPEGImages"
# As other tools call them, in any case, the likeliest first.
ANNOTATION_FOLDERS = ("annotations", "annotation", "annots", "xmls", "xml", "labels", "label")
PICTURE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos", "data")
ALL = "all"  # the one split of pictures without lists
OF_A_CLASS = re.compile(r"(\S.*?)\s+(-1|0|1)")  # a line: which pictures have a cat


@dataclass(frozen=True)
class Place:
    """One year of VOC, or a folder of the same kind."""

    folder: Path
    annotations: Path
    pictures: Path


def place(folder: Path) -> Place | None:
    """A folder that is of the devkit's form, or else one of XML files and pictures."""
    if plain(folder):
        return Place(folder, folder / ANNOTATIONS, folder / PICTURES)
    inside = {one.name.lower(): one for one in folders(folder)}
    named = (inside[name] for name in ANNOTATION_FOLDERS if name in inside)
    annotations = next((one for one in named if has_xml(one)), None)
    pictures = next((inside[name] for name in PICTURE_FOLDERS if name in inside), None)
    if annotations is not None:
        return Place(folder, annotations, pictures or folder)
    for beside in (folder, pictures):
        if beside is not None and has_pairs(beside):
            return Place(folder, beside, beside)
    return None


def plain(folder: Path) -> bool:
    """Whether a folder is that of one year, or of the same form."""
    both = (folder / ANNOTATIONS).is_dir() and (folder / PICTURES).is_dir()
    return (folder / LISTS).is_dir() or (both and not has_only_json(folder / ANNOTATIONS))


def has_only_json(annotations: Path) -> bool:
    """Whether annotations are of COCO's form, although their folder is named as VOC's."""
    return any(annotations.glob("*.json")) and not has_xml(annotations)


def set_places(folder: Path) -> dict[str, Place]:
    """Folders of sets, each with its own XML files and pictures: train, valid, test."""
    named = (one for one in folders(folder) if set_of(one.name))
    found = ((one.name, place(one)) for one in named)
    return {name: own for name, own in found if own is not None}


def folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        Path(one.path) for one in os.scandir(folder) if one.is_dir() and not is_hidden(one.name)
    )


def has_xml(folder: Path) -> bool:
    return next(xml_files(folder), None) is not None


def has_pairs(folder: Path) -> bool:
    """Whether an XML file lies beside the picture that it is about, here or in folders of sets."""
    stems: dict[bool, set[str]] = {True: set(), False: set()}
    with os.scandir(folder) as inside:
        for one in inside:
            if is_picture(one.name) or one.name.lower().endswith(".xml"):
                stems[is_picture(one.name)].add(one.name.rpartition(".")[0])
    sets = [one for one in folders(folder) if set_of(one.name)]
    return bool(stems[True] & stems[False]) or any(map(has_pairs, sets))


def xml_files(folder: Path) -> Iterator[Path]:
    """Every XML file in a folder and below it."""
    for root, inside, files in os.walk(folder):
        inside[:] = sorted(one for one in inside if not is_hidden(one))
        for file in sorted(files):
            if file.lower().endswith(".xml") and not is_hidden(file):
                yield Path(root, file)


def named(files: Iterator[Path], folder: Path) -> dict[str, Path]:
    """Files by their names below a folder, without ending; of 1.jpg and 1.png, the first."""
    found: dict[str, Path] = {}
    for file in files:
        found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    return found


def annotations_of(own: Place) -> dict[str, Path]:
    return named(xml_files(own.annotations), own.annotations)


def pictures_of(own: Place) -> dict[str, Path]:
    """The pictures of a place by name."""

    def files() -> Iterator[Path]:
        for root, inside, files in os.walk(own.pictures):
            inside[:] = sorted(one for one in inside if not is_hidden(one))
            yield from (Path(root, file) for file in sorted(files) if is_picture(file))

    return named(files(), own.pictures)


# ---- lists --------------------------------------------------------------------------------------


def lists(folder: Path) -> dict[str, Path]:
    """The lists of pictures in one year's folder, but for those about one class."""
    for inside in (LISTS, "ImageSets"):
        if there := sorted((folder / inside).glob("*.txt")):
            return {file.stem: file for file in there if not of_a_class(file)}
    return {file.stem: file for file in sorted(folder.glob("*.txt")) if set_of(file.stem)}


def of_a_class(file: Path) -> bool:
    """Whether a list says which pictures of a set have a cat: cat_train.txt."""
    first = next(lines_in(file), "")
    is_marked = OF_A_CLASS.fullmatch(first) is not None
    return is_marked and set_of(file.stem) is None and "_" in file.stem


def split_names(own: Place) -> dict[str, list[str]]:
    """The names of pictures by split, where no list tells them: folders of sets, or all."""
    every = list(annotations_of(own))
    tops = {name.partition("/")[0] for name in every}
    if not every or not all("/" in name for name in every) or not all(map(set_of, tops)):
        return {ALL: every}
    return {top: [one for one in every if one.startswith(f"{top}/")] for top in sorted(tops)}


def candidates(line: str) -> Iterator[str]:
    """The names of a picture that a line of a list may mean, the likeliest first: cats/1, or of
    `JPEGImages\\\\cats\\\\1.jpg  1` the same."""
    marked = OF_A_CLASS.fullmatch(line)
    for text in [line, *([marked[1]] if marked else [])]:
        name = text.replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for first in range(len(parts)):
            whole = "/".join(parts[first:])
            yield whole
            stem, dot, suffix = whole.rpartition(".")
            if (dot + suffix).lower() in (".xml", *EVERY_SUFFIX):
                yield stem
