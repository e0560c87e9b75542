"""The index of an image folder: which folders are splits or classes, and which files are images."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, itemgetter
from os import PathLike
from pathlib import Path
from typing import Literal

from residual.data.rng import permutation
from residual.storage import display_name, parse_list, readable_name

Split = Literal["train", "val", "test"]
# The usual spellings of a split, in lower case, without separators, years and words like "set".
SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "minival"),
    "test": ("test", "testing", "tst", "testdev"),
}
SPLITS: tuple[Split, ...] = tuple(SPELLINGS)
SEPARATORS = re.compile(r"[\s._-]+")
# What may follow: train2017, test1, val_set, training images, TrainData, valid-split.
SUFFIX = re.compile(r"(?:set|split|data|dataset|images?|imgs?|pictures|photos)?\d{0,4}")
# The usual suffixes of the formats that are read (`decode.FORMATS`). MPO is a JPEG followed by more
# images, as phones write it.
FORMAT_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
IMAGE_SUFFIXES = tuple(suffix for some in FORMAT_SUFFIXES.values() for suffix in some)
# Folders of operating systems and archivers, which hold copies of names and previews.
SYSTEM_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
# Neighbouring folders in data for other tasks, in lower case: images and their annotations. As
# classes, a network would learn to tell the one from the other.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
ANNOTATION_FOLDERS = (
    *("annotations", "annotation", "annots", "annot", "anno", "labels", "label", "imagesets"),
    *("bboxes", "bbox", "boxes", "xml", "xmls", "masks", "mask", "trimaps", "segmentations"),
)
SEARCHED_BYTES = 1 << 20  # of a file, in search of boxes
SEARCHED_FILES = 3  # of a folder
NAMED_KINDS = 5  # of files, in a sentence
YOLO = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}", re.IGNORECASE)


@dataclass(frozen=True)
class IndexEntry:
    """An image file and its class."""

    path: str  # below the folder of all splits, with /
    label: int
    bytes: int
    modified_ns: int


@dataclass
class IgnoredFiles:
    """The files that a walk of class folders left out, by their paths below the folder."""

    outside: list[str] = field(default_factory=list)  # images in no class folder
    hidden: list[str] = field(default_factory=list)  # images
    cyclic_links: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)  # folders beside the splits
    others: list[str] = field(default_factory=list)  # files without the name of an image
    like_images: list[str] = field(default_factory=list)  # folders that have one; they are walked
    unreadable: list[OSError] = field(default_factory=list)  # of folders

    def sentences(self, folder: Path) -> Iterator[str]:
        """A sentence about all kinds, if there are any, and one more about boxes."""
        kinds: dict[str, list[str]] = {
            "folders beside the sets": self.beside,
            "pictures in no class folder": self.outside,
            "hidden pictures": self.hidden,
            "links to a folder above them": self.cyclic_links,
        }
        for path in sorted(self.others):
            suffix = Path(path).suffix.lower()
            kind = f"{suffix} files" if suffix else "files without a suffix"
            kinds.setdefault(kind, []).append(path)
        common = [(len(paths), kind, min(paths)) for kind, paths in kinds.items() if paths]
        common.sort(key=itemgetter(0), reverse=True)  # of equal numbers the first kind stays first
        if not common:
            return
        named = [
            f"{display_name(kind)} ({n:,}, such as {display_name(path)})"
            for n, kind, path in common[:NAMED_KINDS]
        ]
        rest = sum(n for n, *_ in common[NAMED_KINDS:])
        others = f", and {rest:,} others" if rest else ""
        yield f"left out of {display_name(folder.name)}: {', '.join(named)}{others}"
        for *_, path in common:
            if name := annotation_format(folder / path):
                yield f"{display_name(path)} holds boxes in {name}'s form; {_box_advice(name)}"
                return


@dataclass(frozen=True)
class FolderIndex:
    """The images of each split, by class and then by path."""

    classes: tuple[str, ...]
    sets: dict[Split, list[IndexEntry]]
    is_split: bool  # by us, since the folder had no splits
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles, compare=False)

    def __iter__(self) -> Iterator[IndexEntry]:
        return (entry for entries in self.sets.values() for entry in entries)

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self)


def index_folder(path: Path) -> FolderIndex:
    """Index a folder with train/ and val/ or test/, or a plain folder of classes, which is split
    once. Without train/ a folder serves for evaluation.

    Raises FileNotFoundError if there is no folder, and ValueError if it is not such a folder.
    """
    ignored = IgnoredFiles()
    if splits := split_folders(path):
        classes, sets = _index_splits(path, splits, ignored)
    else:
        classes = _class_folders(path)
        entries = _index_classes(path, path, classes, ignored)
        _check_classes(path, path, classes, entries)
        sets = _split_classes(path, classes, entries)
    return FolderIndex(tuple(map(readable_name, classes)), sets, not splits, ignored)


def split_folders(path: Path) -> dict[Split, str]:
    """The folders that are splits, in any spelling; empty for a plain folder of classes.

    Raises FileNotFoundError if there is no folder, and ValueError if two are the same split.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {display_name(path)}")
    folders = subfolders(path)
    named = [name for name in folders if split_name(name)]
    splits = set(map(split_name, named))
    # A class may be called train. A folder is a split if it has classes, or only splits beside it.
    several = len(splits) > 1 and "train" in splits
    if several or len(named) == len(folders) or any(subfolders(path / name) for name in named):
        return split_names(named, path)
    return {}


def _index_splits(
    path: Path, splits: dict[Split, str], ignored: IgnoredFiles
) -> tuple[tuple[str, ...], dict[Split, list[IndexEntry]]]:
    """The classes, which are those of the first split, and the entries of each split."""
    first = next(iter(splits.values()))
    if list(splits) == ["train"]:
        raise ValueError(
            f"{display_name(path)} has {display_name(first)}/ but neither test/ nor val/ for "
            f"the evaluation; give {display_name(path / first)} itself to hold out a fifth of it"
        )
    classes = _class_folders(path / first)
    ignored.beside += [f"{name}/" for name in subfolders(path) if name not in splits.values()]
    sets: dict[Split, list[IndexEntry]] = {"train": []}
    for split, name in splits.items():
        folder = path / name
        odd = [label for label in subfolders(folder) if label not in classes]
        if odd:
            raise ValueError(
                f"{display_name(folder)} has a class {odd[0]!r} that {display_name(first)}/ lacks; "
                f"the classes are {', '.join(map(display_name, classes))}"
            )
        sets[split] = _index_classes(path, folder, classes, ignored)
        if not sets[split]:
            hint = annotation_hint(folder)
            raise ValueError(f"{display_name(folder)} has no pictures in class folders{hint}")
    _check_classes(path, path / first, classes, sets[next(iter(splits))])
    return classes, sets


def require_training_set(path: Path, index: FolderIndex) -> None:
    """Raises ValueError if there is nothing to learn from."""
    if not index.sets["train"]:
        splits = ", ".join(f"{split}/" for split, entries in index.sets.items() if entries)
        raise ValueError(f"{display_name(path)} has {splits} but no train/ to learn from")


def _split_classes(
    path: Path, classes: tuple[str, ...], entries: list[IndexEntry]
) -> dict[Split, list[IndexEntry]]:
    """Four fifths of each class for training and one fifth for the test."""
    # Choice: the test set is a fifth of each class, rounded, at least one picture, drawn by a hash
    # of integers; the split depends only on the number of pictures per class.
    sets: dict[Split, list[IndexEntry]] = {"train": [], "test": []}
    for label, group in groupby(entries, attrgetter("label")):
        members, name = list(group), display_name(path / classes[label])
        n = len(members)
        if n < 2:
            raise ValueError(f"{name} has one picture, and a class that is split needs two")
        test = set(permutation(0, label, n)[: max(1, round(n / 5))].tolist())
        for i, entry in enumerate(members):
            sets["test" if i in test else "train"].append(entry)
    return sets


def subfolders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, without hidden ones."""
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name)))


def _class_folders(folder: Path) -> tuple[str, ...]:
    """The folders in a folder. Raises ValueError if they cannot be classes."""
    classes = subfolders(folder)
    name = display_name(folder)
    if not classes:
        raise ValueError(
            f"{name} has no class folders; it needs one folder for each class"
            f"{annotation_hint(folder)}"
        )
    images = [label for label in classes if label.lower() in IMAGE_FOLDERS]
    annotations = [label for label in classes if label.lower() in ANNOTATION_FOLDERS]
    if images and annotations:
        hint = annotation_hint(folder) or "; classes need one folder of pictures each"
        raise ValueError(
            f"{name} has no class folders: {images[0]}/ and {annotations[0]}/ are pictures and "
            f"annotations of them{hint}"
        )
    if len(classes) == 1:
        inside = folder / classes[0]
        hint = f", as {display_name(inside)} has" if len(subfolders(inside)) > 1 else ""
        raise ValueError(
            f"{name} has only one class folder, {classes[0]!r}; it needs two{hint}"
            f"{annotation_hint(folder)}"
        )
    return classes


def _index_classes(
    path: Path, folder: Path, classes: tuple[str, ...], ignored: IgnoredFiles
) -> list[IndexEntry]:
    """The images in the class folders of a folder, with their paths below `path`."""
    entries = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        for image in sorted(iterate_images(path, folder / name, ignored)):
            size = modified = 0  # of a link to nothing or to itself, which is a damaged image
            try:
                stat = (path / image).stat()
                size, modified = stat.st_size, stat.st_mtime_ns
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
            entries.append(IndexEntry(image, label, size, modified))
    if ignored.unreadable:
        raise ignored.unreadable[0]
    ignored.outside += images_outside(path, folder)
    return entries


def images_outside(path: Path, folder: Path) -> list[str]:
    """The images in a folder itself, by their paths below `path`."""
    files = sorted(file for file in folder.iterdir() if is_image(file.name))
    return [file.relative_to(path).as_posix() for file in files if not file.is_dir()]


def iterate_images(path: Path, folder: Path, ignored: IgnoredFiles) -> Iterator[str]:
    """The images in a folder and below it, without hidden ones: their paths below `path`."""
    errors = ignored.unreadable
    for root, folders, files in os.walk(folder, onerror=errors.append, followlinks=True):
        place = Path(root).relative_to(path).as_posix()
        visible = [name for name in folders if not is_hidden(name)]
        folders[:] = [name for name in visible if not is_cyclic_link(Path(root, name))]
        ignored.cyclic_links += [f"{place}/{name}" for name in visible if name not in folders]
        ignored.like_images += [f"{place}/{name}" for name in folders if is_image(name)]
        for name in files:
            if is_image(name):
                yield f"{place}/{name}"
            elif not is_hidden(name):
                ignored.others.append(f"{place}/{name}")
            elif is_image(name.lstrip("._")):
                ignored.hidden.append(f"{place}/{name}")


def is_cyclic_link(folder: Path) -> bool:
    """Whether a link leads to a folder that contains it."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _check_classes(
    path: Path, folder: Path, classes: tuple[str, ...], entries: list[IndexEntry]
) -> None:
    """Raises ValueError for a class folder without images, or with splits inside."""
    filled = {entry.label for entry in entries}
    depth = len((folder / "class").relative_to(path).parts)
    inside: dict[int, dict[Split, str]] = {}
    for entry in entries:
        parts = entry.path.split("/")
        if len(parts) > depth + 1 and (split := split_name(parts[depth])):
            inside.setdefault(entry.label, {})[split] = parts[depth]
    for label, name in enumerate(classes):
        path_text = display_name(folder / name)
        if label not in filled:
            hint = annotation_hint(folder / name) or "; a class needs some"
            raise ValueError(f"{path_text} has no pictures{hint}")
        splits = list(inside.get(label, {}).values())
        if len(splits) > 1:
            raise ValueError(
                f"{path_text} is no class, for it has the sets "
                f"{' and '.join(map(display_name, splits))}; sets come first, with classes in them"
            )


def annotation_format(file: Path) -> str:
    """The format of the boxes in a file, judged by its start; "" if there are none."""
    kind = file.suffix.lower()
    if kind not in (".xml", ".json", ".txt", "") or not file.is_file():
        return ""
    try:
        with file.open("rb") as opened:
            start = opened.read(SEARCHED_BYTES)
    except OSError:
        return ""
    if kind == ".json":
        is_coco = b'"images"' in start and b'"file_name"' in start
        return "COCO" if is_coco or b'"bbox"' in start else ""
    if kind == ".txt":
        lines = list(parse_list(start[:10_000]))[:SEARCHED_FILES]
        return "YOLO" if lines and all(map(YOLO.fullmatch, lines)) else ""
    return "PASCAL VOC" if b"<annotation" in start else ""


def _box_advice(name: str) -> str:
    """How to train on boxes of a format. YOLO's is not read."""
    first = "convert them to COCO's or PASCAL VOC's and " if name == "YOLO" else ""
    return f"{first}learn from boxes with: residual detect train NETWORK --data FOLDER"


def annotation_hint(folder: Path) -> str:
    """The end of a sentence that names boxes in a folder and the command for them, or nothing."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        others = [name for name in sorted(files) if not is_image(name) and not is_hidden(name)]
        for file in (Path(root, name) for name in others[:SEARCHED_FILES]):
            if name := annotation_format(file):
                example = f"{display_name(file.relative_to(folder))}: {_box_advice(name)}"
                return f"; it holds boxes in {name}'s form, such as {example}"
    return ""


def split_name(name: str) -> Split | None:
    """The split that a folder, or a list without its suffix, is named after."""
    letters = SEPARATORS.sub("", name.lower())
    for split, spellings in SPELLINGS.items():
        for spelling in spellings:
            if letters.startswith(spelling) and SUFFIX.fullmatch(letters, len(spelling)):
                return split
    return None


def split_names(names: Iterable[str], folder: PathLike[str] | str) -> dict[Split, str]:
    """The names of splits, in the order train, val, test; other names are left out.

    Raises ValueError if two names mean the same split, such as Train and train, or valid and dev.
    """
    splits: dict[Split, str] = {}
    for name in sorted(names):
        split = split_name(name)
        if split and split in splits:
            raise ValueError(
                f"{display_name(folder)} has {display_name(splits[split])} and "
                f"{display_name(name)}, and both are names of the {split} set; merge them, or give "
                "one another name"
            )
        if split:
            splits[split] = name
    return {split: splits[split] for split in SPLITS if split in splits}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: .git, ._cat.jpg, __MACOSX."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def is_image(name: str) -> bool:
    """Whether a file has the name of an image. The contents decide how it is read."""
    return not is_hidden(name) and name.lower().endswith(IMAGE_SUFFIXES)


def suffix_matches(name: str, image_format: str) -> bool:
    """Whether a file of this format usually has such a suffix."""
    return name.lower().endswith(FORMAT_SUFFIXES[image_format])
