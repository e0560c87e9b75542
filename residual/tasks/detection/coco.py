"""COCO: one JSON file with the boxes of all images of a split."""

import glob
import hashlib
import json
import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from residual.data.folder_index import is_hidden, is_image, split_name
from residual.storage import damage_errors, display_name
from residual.tasks.detection.annotations import (
    AnnotatedImage,
    Box,
    SplitAnnotations,
    parse_flag,
    parse_number,
    path_ends,
)
from residual.tasks.detection.voc import IMAGE_FOLDERS, subfolders

ANNOTATIONS, PREFIX = "annotations", "instances_"
ROBOFLOW = "_annotations.coco.json"  # in the folder of a split, as that service exports it
WITHOUT_BOXES = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
LISTS = ("images", "annotations", "categories")
SIDES = ("x", "y", "width", "height")
JsonObject = dict[str, Any]
BoxesByImage = dict[str, list[Box]]


# ---- files and splits ---------------------------------------------------------------------------


def annotation_files(folder: Path) -> dict[str, Path]:
    """The JSON file of each split: in annotations/, in folders of sets, or beside those."""
    files: dict[str, Path] = {}
    inside = subfolders(folder)
    candidates = [
        file for one in inside if one.name.lower() == ANNOTATIONS for file in json_in(one)
    ]
    candidates += [file for file in json_in(folder) if is_instances(file)]
    for file in sorted(candidates, key=lambda file: not file.name.startswith(PREFIX)):
        if not file.name.startswith(WITHOUT_BOXES):
            files.setdefault(file.stem.removeprefix(PREFIX), file)
    for subfolder in inside:
        in_set = [subfolder / ROBOFLOW] if (subfolder / ROBOFLOW).is_file() else []
        if not in_set and split_name(subfolder.name):
            in_set = [file for file in json_in(subfolder) if is_instances(file)]
        if len(in_set) == 1:
            files.setdefault(subfolder.name, in_set[0])
    return files


def json_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if not is_hidden(file.name))


def is_instances(file: Path) -> bool:
    """Whether a JSON file has COCO's lists with boxes: iNaturalist has classes in this format."""
    status = file.stat()
    return has_lists(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def has_lists(file: Path, _changed: int, _size: int) -> bool:
    raw = file.read_bytes()
    return all(f'"{name}"'.encode() in raw for name in (*LISTS, "bbox"))


def find_split(folder: Path, split: str) -> tuple[str, Path]:
    """A split's full name, train2017 for train, and its JSON file. Raises ValueError."""
    files = annotation_files(folder)
    of_a_year = re.compile(re.escape(split) + r"20\d\d")
    matches = [split] if split in files else [name for name in files if of_a_year.fullmatch(name)]
    if len(matches) > 1:
        raise ValueError(f"{folder} has {split!r} of more than one year: {', '.join(matches)}")
    if not matches:
        available = ", ".join(map(display_name, sorted(files)))
        raise ValueError(f"{folder} has no split {split!r}; it has {available}")
    return matches[0], files[matches[0]]


def image_folders(folder: Path, split: str, name: str, file: Path) -> list[Path]:
    """The folders that may hold the images of a split, the likeliest first."""
    years = f"{glob.escape(split)}20[0-9][0-9]"
    general = [one for one in subfolders(folder) if one.name.lower() in IMAGE_FOLDERS]
    same_set = [
        one
        for parent in (folder, *general)
        for one in subfolders(parent)
        if set_in(name) is not None and set_in(one.name) == set_in(name)  # train2017, custom_train
    ]
    candidates = [
        *(folder / name, folder / split),
        *(parent / one for parent in general for one in (name, split)),
        *(*general, *sorted(folder.glob(years)), *same_set, file.parent, folder),
    ]
    return [candidate for candidate in dict.fromkeys(candidates) if candidate.is_dir()]


def set_in(split: str) -> str | None:
    """The set that a split's name means: custom_train, Validation, instances_test."""
    parts = re.split(r"[\s._-]+", split)
    return split_name(split) or next(filter(None, map(split_name, reversed(parts))), None)


def unlisted_images(listed: Collection[Path]) -> list[Path]:
    """Image files beside those of the splits that are in no split."""
    beside = (file for folder in {path.parent for path in listed} for file in folder.iterdir())
    return sorted(file for file in beside if is_image(file.name) and file not in listed)


# ---- annotations --------------------------------------------------------------------------------


def read(folder: Path, split: str) -> SplitAnnotations:
    """The classes of a split, and its images with their boxes or with the reason why not.

    Raises ValueError if there is no such split, or if its file as a whole is damaged.
    """
    name, path = find_split(folder, split)
    file, folders = path.relative_to(folder).as_posix(), image_folders(folder, split, name, path)
    content = read_lists(path)
    with damage_errors(path):
        labels = category_names(content["categories"])
        boxes = boxes_by_image(content["annotations"], labels)
        images = [read_image(image, file, folders, boxes) for image in content["images"]]
        names = {image.name for image in images}
        parents = parent_categories(content["categories"], labels, boxes)
        # Choice: categories of one name are one class; some exports have them twice.
        in_order = dict.fromkeys(labels[ident] for ident in sorted(labels, key=numeric_order))
    notices = [
        f"{file}: the category {display_name(parent)} has no box and only stands above "
        "others: no class"
        for parent in parents
    ]
    for ident in (ident for ident in boxes if ident not in names):
        box = boxes[ident][0].position
        error = ValueError(f"{file}: {box} is of the image {ident}, which the file does not have")
        images.append(AnnotatedImage(ident, file, error=error))
    classes = tuple(label for label in in_order if label not in parents)
    return SplitAnnotations(tuple(images), classes, tuple(notices))


def read_lists(path: Path) -> dict[str, list[JsonObject]]:
    """The lists in a file of annotations. Raises ValueError."""
    with damage_errors(path):
        content = json.loads(path.read_bytes())
    for name in LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{path} holds no boxes in COCO's form: it has no list of {name}")
    return {name: content[name] for name in LISTS}


def id_text(ident: Any) -> str:
    """An id as text, equal for 1, 1.0 and "1". Raises ValueError for any other type."""
    if isinstance(ident, float) and ident.is_integer():
        ident = int(ident)
    if isinstance(ident, bool) or not isinstance(ident, int | str):
        raise ValueError(f"an id is a whole number or a text, not {ident!r}")
    return str(ident).strip()


def numeric_order(ident: str) -> tuple[bool, int, str]:
    """A sort key for ids: numbers by value, before words."""
    is_number = ident.removeprefix("-").isdecimal()
    return (not is_number, int(ident) if is_number else 0, ident)


def category_names(categories: list[JsonObject]) -> dict[str, str]:
    """The names of categories by id. Raises ValueError if one id has two."""
    names: dict[str, str] = {}
    for category in categories:
        ident, name = id_text(category["id"]), str(category["name"]).strip()
        if names.setdefault(ident, name) != name:
            raise ValueError(
                f"the categories {names[ident]!r} and {name!r} both have the id {ident}"
            )
    return names


def parent_categories(
    categories: list[JsonObject], labels: dict[str, str], boxes: BoxesByImage
) -> tuple[str, ...]:
    """The categories without boxes that are parents of others: the root of some exports."""
    pairs = [
        (str(category["name"]).strip(), str(category.get("supercategory") or "").strip())
        for category in categories
    ]
    parents = {parent for name, parent in pairs if parent != name}
    parents -= {box.label for image_boxes in boxes.values() for box in image_boxes}
    return tuple(name for name in dict.fromkeys(labels.values()) if name in parents)


def boxes_by_image(annotations: list[JsonObject], labels: dict[str, str]) -> BoxesByImage:
    """The boxes of each image, by its id."""
    boxes: BoxesByImage = {}
    for i, annotation in enumerate(annotations, start=1):
        label = labels.get(id_text(annotation["category_id"]), "")
        box = parse_box(annotation, f"annotation {annotation.get('id', i)}", label)
        boxes.setdefault(id_text(annotation["image_id"]), []).append(box)
    return boxes


def parse_box(annotation: JsonObject, position: str, label: str) -> Box:
    """An annotation's box: its upper left corner, width and height."""
    bbox = annotation.get("bbox")
    numbers = bbox if isinstance(bbox, list) and len(bbox) == 4 else [None] * 4
    left, top, width, height = map(parse_number, numbers)
    corners = (left, top, left + width, top + height)
    text = ", ".join(f"{side} {value}" for side, value in zip(SIDES, numbers, strict=True))
    crowd = parse_flag(annotation.get("iscrowd"))
    return Box(position, label, corners, corners, crowd, text)


def read_image(
    image: JsonObject, file: str, folders: list[Path], boxes: BoxesByImage
) -> AnnotatedImage:
    """An image and its boxes. That its file is missing is stored, not raised."""
    ident, name = id_text(image["id"]), str(image["file_name"])
    own_boxes, path = tuple(boxes.get(ident, ())), find_image(name, folders)
    size = (parse_number(image.get("width")), parse_number(image.get("height")))
    content = [name, *size, *((box.label, box.text, box.difficult) for box in own_boxes)]
    error = None
    if path is None:
        error = FileNotFoundError(
            f"there is no picture {display_name(name)} of {file}; "
            f"looked in {', '.join(map(str, folders))}"
        )
    return AnnotatedImage(
        ident,
        file,
        path,
        size if all(side > 0 for side in size) else None,
        own_boxes,
        hashlib.sha256(repr(content).encode(errors="surrogatepass")).hexdigest(),
        error,
    )


def find_image(name: str, folders: list[Path]) -> Path | None:
    """The file of this name in one of the folders; the name may have backslashes, or folders of
    another machine before it."""
    paths = (folder / end for end in (name, *path_ends(name)) for folder in folders)
    return next(filter(Path.is_file, paths), None)
