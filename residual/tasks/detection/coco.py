"""COCO: one JSON file with the boxes of all pictures of a split."""

import glob
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from residual.data.filenames import is_hidden, is_picture, set_of, shown
from residual.storage import reading
from residual.tasks.detection.annotations import Annotated, Box, Split
from residual.tasks.detection.layouts import PICTURE_FOLDERS, folders

ANNOTATIONS, PREFIX = "annotations", "instances_"
ROBOFLOW = "_annotations.coco.json"  # in the folder of a split, as that service exports it
OTHERS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")  # not of boxes
LISTS = ("images", "annotations", "categories")
SIDES = ("x", "y", "width", "height")


# ---- which file, which pictures -----------------------------------------------------------------


def is_coco(folder: Path) -> bool:
    return bool(files(folder))


def files(folder: Path) -> dict[str, Path]:
    """The annotations of each split: in annotations/, in folders of sets, or beside those."""
    found: dict[str, Path] = {}
    inside = folders(folder)
    own = [file for one in inside if one.name.lower() == ANNOTATIONS for file in json_in(one)]
    own += [file for file in json_in(folder) if is_of_boxes(file)]
    for file in sorted(own, key=lambda file: not file.name.startswith(PREFIX)):
        if not file.name.startswith(OTHERS):
            found.setdefault(file.stem.removeprefix(PREFIX), file)
    for one in inside:
        there = [one / ROBOFLOW] if (one / ROBOFLOW).is_file() else []
        if not there and set_of(one.name):
            there = [file for file in json_in(one) if is_of_boxes(file)]
        if len(there) == 1:
            found.setdefault(one.name, there[0])
    return found


def json_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if not is_hidden(file.name))


def is_of_boxes(file: Path) -> bool:
    """Whether a JSON file that lies anywhere looks like one of COCO's form, with boxes: iNaturalist
    has classes in this form."""
    told = file.stat()
    return looks_right(file, told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=64)
def looks_right(file: Path, _changed: int, _size: int) -> bool:
    raw = file.read_bytes()
    return all(f'"{name}"'.encode() in raw for name in (*LISTS, "bbox"))


def splits(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(files(folder)))


def file_of(folder: Path, split: str) -> tuple[str, Path]:
    """A split's whole name and its annotations. Raises ValueError."""
    there = files(folder)
    fits = [split] if split in there else [name for name in there if of_a_year(split, name)]
    if len(fits) > 1:
        raise ValueError(f"{folder} has {split!r} of more than one year: {', '.join(fits)}")
    if not fits:
        known = ", ".join(map(shown, splits(folder)))
        raise ValueError(f"{folder} has no split {split!r}; it has {known}")
    return fits[0], there[fits[0]]


def of_a_year(split: str, name: str) -> bool:
    return re.fullmatch(re.escape(split) + r"20\d\d", name) is not None


def places(folder: Path, split: str, name: str, file: Path) -> list[Path]:
    """The folders in which the pictures of a split may lie, the likeliest first."""
    years = f"{glob.escape(split)}20[0-9][0-9]"
    general = [one for one in folders(folder) if one.name.lower() in PICTURE_FOLDERS]
    found = [folder / name, folder / split]
    found += [one / own for one in general for own in (name, split)]
    found += [*general, *sorted(folder.glob(years))]
    found += [one for beside in (folder, *general) for one in of_the_same_set(beside, name)]
    found.append(file.parent)
    return [place for place in dict.fromkeys([*found, folder]) if place.is_dir()]


def of_the_same_set(folder: Path, name: str) -> list[Path]:
    """Folders of the set that a split's name means: train2017/ for custom_train."""
    own = meaning(name)
    return [one for one in folders(folder) if own is not None and meaning(one.name) == own]


def meaning(split: str) -> str | None:
    """The set that a split's name stands for: custom_train, Validation, instances_test."""
    parts = re.split(r"[\s._-]+", split)
    return set_of(split) or next((own for part in parts[::-1] if (own := set_of(part))), None)


# ---- what is said of them -----------------------------------------------------------------------


def read(folder: Path, split: str) -> Split:
    """The classes of a split, and every picture with its boxes, or with what is wrong.

    Raises ValueError where there is no such split, or where its file is damaged as a whole.
    """
    name, path = file_of(folder, split)
    file, where = path.relative_to(folder).as_posix(), places(folder, split, name, path)
    said = opened(path)
    with reading(path):
        names = names_of(said["categories"])
        boxes = boxes_of(said["annotations"], names)
        pictures = [picture(one, file, where, boxes) for one in said["images"]]
        lost = list(unplaced(file, boxes, {key(one["id"]) for one in said["images"]}))
        roots = above(said["categories"], names, boxes)
        # Choice: categories of one name are one class; a service that exports them doubles some.
        every = dict.fromkeys(names[number] for number in sorted(names, key=by_number))
    notices = [
        f"{file}: the category {shown(root)} has no box and only stands above others: no class"
        for root in roots
    ]
    classes = tuple(name for name in every if name not in roots)
    return Split((*pictures, *lost), classes, tuple(notices))


def opened(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists in a file of annotations. Raises ValueError."""
    with reading(path):
        said = json.loads(path.read_bytes())
    for name in LISTS:
        if not isinstance(said, dict) or not isinstance(said.get(name), list):
            raise ValueError(f"{path} holds no boxes in COCO's form: it has no list of {name}")
    return {name: said[name] for name in LISTS}


def key(said: Any) -> str:
    """An id, the same of 1, 1.0 and "1". Raises ValueError for what is none."""
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int | str):
        raise ValueError(f"an id is a whole number or a text, not {said!r}")
    return str(said).strip()


def by_number(own: str) -> tuple[bool, int, str]:
    """For sorting ids: numbers by their value, and before words."""
    is_number = own.removeprefix("-").isdecimal()
    return (not is_number, int(own) if is_number else 0, own)


def names_of(categories: list[dict[str, Any]]) -> dict[str, str]:
    """The names of categories by their ids. Raises ValueError where one id has two."""
    names: dict[str, str] = {}
    for one in categories:
        number, name = key(one["id"]), str(one["name"]).strip()
        if names.setdefault(number, name) != name:
            raise ValueError(
                f"the categories {names[number]!r} and {name!r} both have the id {number}"
            )
    return names


def above(
    categories: list[dict[str, Any]], names: dict[str, str], boxes: dict[str, list[Box]]
) -> tuple[str, ...]:
    """The categories that only stand above others, and have no box: the root of some exports."""
    pairs = [
        (str(one["name"]).strip(), str(one.get("supercategory") or "").strip())
        for one in categories
    ]
    others = {root for name, root in pairs if root != name}
    annotated = {box.name for own in boxes.values() for box in own}
    return tuple(name for name in dict.fromkeys(names.values()) if name in others - annotated)


def boxes_of(annotations: list[dict[str, Any]], names: dict[str, str]) -> dict[str, list[Box]]:
    """The boxes of each image, by its id."""
    found: dict[str, list[Box]] = {}
    for place, one in enumerate(annotations, start=1):
        found.setdefault(key(one["image_id"]), []).append(
            box(one, f"annotation {one.get('id', place)}", names.get(key(one["category_id"]), ""))
        )
    return found


def box(one: dict[str, Any], place: str, name: str) -> Box:
    """An annotation's box: COCO tells the left upper corner, and then how wide and high it is."""
    said = one.get("bbox")
    numbers = said if isinstance(said, list) and len(said) == 4 else [None] * 4
    left, top, width, height = map(number, numbers)
    return Box(
        place,
        name,
        (left, top, left + width, top + height),
        (left, top, left + width, top + height),
        (width, height),
        bool(one.get("iscrowd", 0)),
        ", ".join(f"{side} {each}" for side, each in zip(SIDES, numbers, strict=True)),
    )


def number(said: Any) -> float:
    """What is said as a number; what is none is no number."""
    try:
        return float(said)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def picture(
    one: dict[str, Any], file: str, where: list[Path], boxes: dict[str, list[Box]]
) -> Annotated:
    """An image and its boxes. That its file is not there is not raised, but said."""
    ident, name = key(one["id"]), str(one["file_name"])
    own, path = tuple(boxes.get(ident, ())), located(name, where)
    size = (number(one.get("width")), number(one.get("height")))
    said = [name, *size, *((each.name, each.said, each.difficult) for each in own)]
    trouble = None
    if path is None:
        looked = ", ".join(map(str, where))
        trouble = FileNotFoundError(
            f"there is no picture {shown(name)} of {file}; looked in {looked}"
        )
    return Annotated(
        ident,
        file,
        path,
        size if all(side > 0 for side in size) else None,
        own,
        hashlib.sha256(repr(said).encode(errors="surrogatepass")).hexdigest(),
        trouble,
    )


def located(name: str, where: list[Path]) -> Path | None:
    """The file that a name means in one of these folders, whatever program wrote it: with
    backslashes, or with folders before it that are another machine's."""
    for place in where:
        if (place / name).is_file():
            return place / name
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((own for t in tails for place in where if (own := place / t).is_file()), None)


def unplaced(file: str, boxes: dict[str, list[Box]], images: set[str]) -> Iterator[Annotated]:
    """What is annotated of images that the file does not have."""
    for image, own in boxes.items():
        if image not in images:
            said = f"{file}: {own[0].place} is of the image {image}, which the file does not have"
            yield Annotated(image, file, trouble=ValueError(said))


def bare(known: Collection[Path]) -> list[Path]:
    """Pictures that lie where those of splits lie, and are in no split."""
    beside = (file for place in {path.parent for path in known} for file in place.iterdir())
    return sorted(file for file in beside if is_picture(file.name) and file not in known)
