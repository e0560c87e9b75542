"""COCO: one JSON file with the boxes of all pictures of a split."""

import glob
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from residual.data.filenames import is_picture
from residual.detection.examples import Scenes
from residual.detection.validity import ERROR, Annotated, Box, scenes

ANNOTATIONS, PREFIX = "annotations", "instances_"
ROBOFLOW = "_annotations.coco.json"  # in the folder of a split, as that service exports it
OTHERS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")  # not of boxes
LISTS = ("images", "annotations", "categories")
SIDES = ("x", "y", "width", "height")


def coco(
    folder: Path, split: str, classes: tuple[str, ...] | None = None, bad_boxes: str = ERROR
) -> Scenes:
    """The pictures of a split: train2017, or train where there is one of one year only.

    Without classes they are the file's categories, by their ids. Raises FileNotFoundError and
    ValueError, in a sentence, where something is missing or damaged; see `validity.scenes` for bad
    boxes.
    """
    own, annotated = read(folder, split)
    classes = own if classes is None else classes
    return scenes(folder.resolve().name, split, "coco", annotated, classes, bad_boxes)


# ---- which file, which pictures -----------------------------------------------------------------


def is_coco(folder: Path) -> bool:
    return bool(files(folder))


def files(folder: Path) -> dict[str, Path]:
    """The annotations of each split."""
    found = {}
    for file in sorted((folder / ANNOTATIONS).glob("*.json")):
        if not file.name.startswith((PREFIX, *OTHERS)):
            found[file.stem] = file
    for file in sorted((folder / ANNOTATIONS).glob(f"{PREFIX}*.json")):
        found[file.stem.removeprefix(PREFIX)] = file
    for file in sorted(folder.glob(f"*/{ROBOFLOW}")):
        found.setdefault(file.parent.name, file)
    return found


def splits(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(files(folder)))


def file_of(folder: Path, split: str) -> tuple[str, Path]:
    """A split's whole name and its annotations. Raises ValueError."""
    there = files(folder)
    fits = [split] if split in there else [name for name in there if of_a_year(split, name)]
    if len(fits) > 1:
        raise ValueError(f"{folder} has {split!r} of more than one year: {', '.join(fits)}")
    if not fits:
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(splits(folder))}")
    return fits[0], there[fits[0]]


def of_a_year(split: str, name: str) -> bool:
    return re.fullmatch(re.escape(split) + r"20\d\d", name) is not None


def places(folder: Path, split: str, name: str) -> list[Path]:
    """The folders in which the pictures of a split may lie, the likeliest first."""
    pattern = f"{glob.escape(split)}20[0-9][0-9]"
    found = [
        folder / name,
        folder / split,
        folder / "images" / name,
        folder / "images" / split,
        folder / "images",
        *sorted(folder.glob(pattern)),
        folder,
    ]
    return [place for place in dict.fromkeys(found) if place.is_dir()]


# ---- what is said of them -----------------------------------------------------------------------


def read(folder: Path, split: str) -> tuple[tuple[str, ...], list[Annotated]]:
    """The classes of a split, and every picture with its boxes, or with what is wrong.

    Raises ValueError where there is no such split, or where its file is damaged as a whole.
    """
    name, path = file_of(folder, split)
    file, where = path.relative_to(folder).as_posix(), places(folder, split, name)
    said = opened(path)
    try:
        names = {one["id"]: str(one["name"]).strip() for one in said["categories"]}
        boxes = boxes_of(said["annotations"], names)
        pictures = [picture(one, file, where, boxes) for one in said["images"]]
        lost = list(unplaced(file, boxes, {one["id"] for one in said["images"]}))
        # Choice: categories of one name are one class; a service that exports them doubles some.
        classes = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    except KeyError as error:
        raise ValueError(f"{path} is damaged: something in it has no {error}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return classes, [*pictures, *lost]


def opened(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists in a file of annotations. Raises ValueError."""
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name in LISTS:
        if not isinstance(said, dict) or not isinstance(said.get(name), list):
            raise ValueError(f"{path} holds no boxes in COCO's form: it has no list of {name}")
    return {name: said[name] for name in LISTS}


def boxes_of(annotations: list[dict[str, Any]], names: dict[Any, str]) -> dict[Any, list[Box]]:
    """The boxes of each image, by its id."""
    found: dict[Any, list[Box]] = {}
    for place, one in enumerate(annotations, start=1):
        found.setdefault(one["image_id"], []).append(
            box(one, f"annotation {one.get('id', place)}", names.get(one["category_id"], ""))
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
    one: dict[str, Any], file: str, where: list[Path], boxes: dict[Any, list[Box]]
) -> Annotated:
    """An image and its boxes. That its file is not there is not raised, but said."""
    own, name = tuple(boxes.get(one["id"], ())), str(one["file_name"])
    path = next((place / name for place in where if (place / name).is_file()), None)
    size = (number(one.get("width")), number(one.get("height")))
    said = [name, *size, *((each.name, each.said, each.difficult) for each in own)]
    trouble = None
    if path is None:
        looked = ", ".join(map(str, where))
        trouble = FileNotFoundError(f"there is no picture {name} of {file}; looked in {looked}")
    return Annotated(
        str(one["id"]),
        file,
        path,
        size if all(side > 0 for side in size) else None,
        own,
        hashlib.sha256(repr(said).encode(errors="surrogatepass")).hexdigest(),
        trouble,
    )


def unplaced(file: str, boxes: dict[Any, list[Box]], images: set[Any]) -> Iterator[Annotated]:
    """What is annotated of images that the file does not have."""
    for image, own in boxes.items():
        if image not in images:
            said = f"{file}: {own[0].place} is of the image {image}, which the file does not have"
            yield Annotated(str(image), file, trouble=ValueError(said))


def bare(known: Collection[Path]) -> list[Path]:
    """Pictures that lie where those of splits lie, and are in no split."""
    beside = (file for place in {path.parent for path in known} for file in place.iterdir())
    return sorted(file for file in beside if is_picture(file.name) and file not in known)
