"""PASCAL VOC: an XML file of boxes for each image, and text files that list the images of a split.

Also reads folders of other tools: XML files beside images, and folders of sets (train, valid).
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring

from residual.data import folder_index
from residual.data.folder_index import IMAGE_SUFFIXES, is_hidden, is_image, split_name
from residual.storage import display_name, read_list
from residual.tasks.detection.annotations import (
    READERS,
    AnnotatedImage,
    Box,
    Size,
    SplitAnnotations,
    parse_flag,
    parse_number,
    path_ends,
)

# Names of the devkit.
ANNOTATIONS, LISTS, IMAGES = "Annotations", "ImageSets/Main", "JPEGImages"
# Names in other tools, in any case, the likeliest first.
ANNOTATION_FOLDERS = ("annotations", "annotation", "annots", "xmls", "xml", "labels", "label")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos", "data")
ALL = "all"  # the only split of a folder without lists
CLASS_LIST_LINE = re.compile(r"(\S.*?)\s+(-1|0|1)")  # a line of cat_train.txt: has a cat or not
MAX_BYTES = 16 << 20  # of an annotation; the largest of VOC 2007 and 2012 has less than 20 KB
YEAR = re.compile(r"VOC\d\d(\d\d)")
SIDES = ("xmin", "ymin", "xmax", "ymax")


# ---- folders ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VocFolder:
    """One year of VOC, or a folder of the same structure."""

    root: Path
    annotation_folder: Path
    image_folder: Path

    @cached_property
    def annotations(self) -> dict[str, Path]:
        """The XML files by name; see `files_by_name`."""
        return files_by_name(self.annotation_folder, is_xml)

    @cached_property
    def images(self) -> dict[str, Path]:
        """The image files by name; see `files_by_name`."""
        return files_by_name(self.image_folder, is_image)

    def resolve(self, line: str) -> str:
        """The name of the image that a line of a list means."""
        names = ["", *possible_names(line)]
        matches = (name for name in names if name in self.annotations or name in self.images)
        return next(matches, names[-1])  # never a path of another machine


def files_by_name(folder: Path, accepts: Callable[[str], bool]) -> dict[str, Path]:
    """Files below a folder by their path in it without suffix; of 1.jpg and 1.png, the first."""
    files: dict[str, Path] = {}
    for file in files_below(folder):
        if accepts(file.name):
            files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    return files


def files_below(folder: Path) -> Iterator[Path]:
    for root, subfolder_names, files in os.walk(folder):
        subfolder_names[:] = sorted(name for name in subfolder_names if not is_hidden(name))
        yield from (Path(root, file) for file in sorted(files))


def is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not is_hidden(name)


def has_xml(folder: Path) -> bool:
    return any(is_xml(file.name) for file in files_below(folder))


def subfolders(folder: Path) -> list[Path]:
    names = folder_index.subfolders(folder) if folder.is_dir() else ()
    return [folder / name for name in names]


def set_folders(folder: Path) -> list[Path]:
    """Subfolders that are named as a set is: train, valid, test."""
    return [subfolder for subfolder in subfolders(folder) if split_name(subfolder.name)]


def is_devkit_year(folder: Path) -> bool:
    """Whether a folder has the structure of one year of the devkit."""
    if (folder / LISTS).is_dir():
        return True
    annotations = folder / ANNOTATIONS
    both = annotations.is_dir() and (folder / IMAGES).is_dir()
    # COCO's JSON files may lie in a folder of this name, too.
    return both and (not any(annotations.glob("*.json")) or has_xml(annotations))


def voc_folder(folder: Path) -> VocFolder | None:
    """A folder of the devkit's structure, or else of XML files and images."""
    if is_devkit_year(folder):
        return VocFolder(folder, folder / ANNOTATIONS, folder / IMAGES)
    by_name = {subfolder.name.lower(): subfolder for subfolder in subfolders(folder)}
    candidates = (by_name[name] for name in ANNOTATION_FOLDERS if name in by_name)
    annotations = next(filter(has_xml, candidates), None)
    images = next((by_name[name] for name in IMAGE_FOLDERS if name in by_name), None)
    if annotations is not None:
        return VocFolder(folder, annotations, images or folder)
    for place in (folder, images):
        if place is not None and has_pairs(place):
            return VocFolder(folder, place, place)
    return None


def has_pairs(folder: Path) -> bool:
    """Whether an XML file lies beside its image, in the folder or in its folders of sets."""
    names = [file.name for file in folder.iterdir()]
    image_stems = {name.rpartition(".")[0] for name in names if is_image(name)}
    xml_stems = {name.rpartition(".")[0] for name in names if is_xml(name)}
    return bool(image_stems & xml_stems) or any(map(has_pairs, set_folders(folder)))


def voc_folders(folder: Path) -> dict[str, VocFolder]:
    """The folder itself, under "", or those of its years or its sets by name."""
    if not is_devkit_year(folder):
        parts = years(folder) or {one.name: one for one in set_folders(folder)}
        located = {name: voc for name, part in parts.items() if (voc := voc_folder(part))}
        if located:
            return located
    voc = voc_folder(folder) if folder.is_dir() else None
    return {"": voc} if voc else {}


def devkit(folder: Path) -> Path:
    return folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder


def years(folder: Path) -> dict[str, Path]:
    """The folders of the years in a devkit: 07, 12."""
    return {
        match[1]: subfolder
        for subfolder in subfolders(devkit(folder))
        if (match := YEAR.fullmatch(subfolder.name)) and is_devkit_year(subfolder)
    }


# ---- splits -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageList:
    """The images of a split: those in a list, or those with this prefix of their names."""

    voc: VocFolder
    file: Path | None = None
    prefix: str = ""

    def lines(self) -> Iterator[str]:
        if self.file is not None:
            return read_list(self.file)
        return (name for name in self.voc.annotations if name.startswith(self.prefix))


def image_lists(folder: Path) -> dict[str, Path]:
    """The lists of images in the folder of one year, without those of one class."""
    for place in (LISTS, "ImageSets"):
        if files := sorted((folder / place).glob("*.txt")):
            return {file.stem: file for file in files if not is_class_list(file)}
    return {file.stem: file for file in sorted(folder.glob("*.txt")) if split_name(file.stem)}


def is_class_list(file: Path) -> bool:
    """Whether a list says which images of a set have an object of a class: cat_train.txt."""
    is_marked = CLASS_LIST_LINE.fullmatch(next(read_list(file), "")) is not None
    return is_marked and split_name(file.stem) is None and "_" in file.stem


def possible_names(line: str) -> Iterator[str]:
    """The image names that a line of a list may mean, the likeliest first: of
    `JPEGImages\\\\cats\\\\1.jpg  1` among others cats/1."""
    marked = CLASS_LIST_LINE.fullmatch(line)
    for entry in [line, *([marked[1]] if marked else [])]:
        for name in path_ends(entry):
            yield name
            stem, dot, suffix = name.rpartition(".")
            if (dot + suffix).lower() in (".xml", *IMAGE_SUFFIXES):
                yield stem


def by_split(folder: Path) -> dict[str, ImageList]:
    """The images of each split: of a list in ImageSets/Main, of a set's folder, or all images.

    In a devkit, names of splits begin with the year: 07trainval.
    """
    splits: dict[str, ImageList] = {}
    is_devkit = bool(years(folder))
    for name, voc in voc_folders(folder).items():
        lists = image_lists(voc.root) if is_devkit or not name else {}
        splits |= {name + split: ImageList(voc, file) for split, file in lists.items()}
        if name and not is_devkit:
            splits[name] = ImageList(voc)
        elif not name and not lists:
            tops = sorted({image.partition("/")[0] for image in voc.annotations})
            nested = all("/" in image for image in voc.annotations) and all(map(split_name, tops))
            parts = {top: ImageList(voc, prefix=f"{top}/") for top in tops if nested}
            splits |= parts or {ALL: ImageList(voc)}
    return splits


def find_split(folder: Path, split: str) -> list[ImageList]:
    """The images of a split, in one or several lists. Raises ValueError.

    A devkit also has 07 and 12 (trainval of the year), 07+12 (both), 07++12 (trainval and test of
    the first, trainval of the second), and the name of a list that only one year has.
    """
    lists = by_split(folder)
    if split in lists:
        return [lists[split]]
    if years(folder):
        matching = [name for name in lists if name[2:] == split]
        if len(matching) > 1:
            roots = " and ".join(lists[name].voc.root.name for name in matching)
            raise ValueError(
                f"{roots} both have a split {split!r}; "
                f"take {', '.join(matching)} or {'+'.join(matching)}"
            )
        terms = re.sub(r"^(\d\d)\+\+", r"\1+\1test+", split).split("+")
        names = matching or [f"{term}trainval" if len(term) == 2 else term for term in terms]
        if all(name in lists for name in names):
            return [lists[name] for name in names]
    available = ", ".join(map(display_name, lists)) or f"none, for no list lies in {LISTS}"
    raise ValueError(f"{folder} has no split {split!r}; it has {available}")


def unpaired(folder: Path) -> tuple[list[Path], list[Path]]:
    """Annotations without image, and images without annotation, in any year."""
    without_image: list[Path] = []
    without_annotation: list[Path] = []
    for voc in voc_folders(folder).values():
        xml, images = voc.annotations, voc.images
        without_image += [xml[name] for name in sorted(xml.keys() - images.keys())]
        without_annotation += [images[name] for name in sorted(images.keys() - xml.keys())]
    return without_image, without_annotation


# ---- annotations --------------------------------------------------------------------------------


def read(folder: Path, split: str) -> SplitAnnotations:
    """Every image of a split with its annotation, or with the reason why it has none."""
    lists = find_split(folder, split)
    pairs = [(images.voc, images.voc.resolve(line)) for images in lists for line in images.lines()]
    with ThreadPoolExecutor(READERS) as pool:
        results = pool.map(lambda pair: read_image(folder, *pair), pairs)
        return SplitAnnotations(tuple(results))


def read_image(folder: Path, voc: VocFolder, name: str) -> AnnotatedImage:
    """An image and its annotation. An error is stored, not raised."""
    path = voc.annotations.get(name, voc.annotation_folder / f"{name}.xml")
    image = AnnotatedImage(name, path.relative_to(folder).as_posix(), voc.images.get(name))
    try:
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no annotation {display_name(path)}, which {LISTS} names"
            )
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{display_name(path)} is no annotation: it has more than {MAX_BYTES:,} bytes"
            )
        raw = path.read_bytes()
        size, boxes = parse(raw, path)
    except (OSError, ValueError) as error:
        return replace(image, error=error)
    if image.path is None:
        missing = FileNotFoundError(
            f"there is no picture {display_name(voc.image_folder / name)} (.jpg, .png ...), which "
            f"{display_name(path)} is about"
        )
        return replace(image, boxes=boxes, error=missing)
    return replace(image, size=size, boxes=boxes, digest=hashlib.sha256(raw).hexdigest())


def parse(raw: bytes, path: Path) -> tuple[Size | None, tuple[Box, ...]]:
    """The image size of an annotation, if it has one, and its boxes. Raises ValueError."""
    try:
        root = fromstring(raw, forbid_dtd=True)
    except DTDForbidden:
        raise ValueError(f"{path} is damaged: it declares a document type") from None
    except (ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its namespace
    width, height = (parse_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    objects = enumerate(root.findall("object"), start=1)  # not the parts (head, hand) inside them
    boxes = tuple(parse_box(element, i) for i, element in objects)
    return ((width, height) if width > 0 and height > 0 else None), boxes


def parse_box(element: Element, position: int) -> Box:
    """The box of an object: VOC counts pixels from 1 and names the last one inside."""
    words = [element.findtext(f"bndbox/{side}", "").strip() for side in SIDES]
    left, top, right, bottom = map(parse_number, words)
    return Box(
        f"box {position}",
        element.findtext("name", "").strip(),
        (left, top, right, bottom),
        (left - 1, top - 1, right, bottom),
        parse_flag(element.findtext("difficult")),
        ", ".join(f"{side} {word or 'missing'}" for side, word in zip(SIDES, words, strict=True)),
    )
