"""The index of an image folder: which folders are splits or classes, and which files are images."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

from residual.data.rng import permutation
from residual.storage import display_name, parse_list, readable_name

Split = Literal["train", "val", "test"]
# Every usual spelling of a set, in lower case and without separators, years and words like "set".
SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "minival"),
    "test": ("test", "testing", "tst", "testdev"),
}
SPLITS: tuple[Split, ...] = tuple(SPELLINGS)
SPLIT_OF = {spelling: name for name, own in SPELLINGS.items() for spelling in own}
SEPARATORS = re.compile(r"[\s._-]+")
# What may follow: train2017, test1, val_set, training images, TrainData, valid-split.
SUFFIX = re.compile(r"(?:set|split|data|dataset|images?|imgs?|pictures|photos)?\d{0,4}")
# The formats that are read (`decode.FORMATS`), and how files of each are usually called. MPO is a
# JPEG with more pictures behind it, as telephones write.
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
IMAGE_SUFFIXES = tuple(dict.fromkeys(suffix for own in FORMAT_SUFFIXES.values() for suffix in own))
# Folders of operating systems and archivers, which hold copies of names and small previews.
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
# Folders beside each other in data for other tasks, in lower case: pictures, and what is said of
# them. As classes, a network would learn to tell the one from the other.
PICTURES = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
ANNOTATIONS = (
    *("annotations", "annotation", "annots", "annot", "anno", "labels", "label", "imagesets"),
    *("bboxes", "bbox", "boxes", "xml", "xmls", "masks", "mask", "trimaps", "segmentations"),
)
START = 1 << 20  # bytes of a file that are searched for boxes
SOME = 3  # files of a folder, at most, that are searched for boxes
MOST = 5  # kinds of files, at most, that are named
YOLO = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}", re.IGNORECASE)


@dataclass(frozen=True)
class IndexEntry:
    """A picture's file and the class of the folder that it lies in."""

    path: str  # below the folder of all sets, with /
    label: int
    bytes: int
    changed_ns: int


@dataclass
class IgnoredFiles:
    """What is not taken for pictures: how many there are of each kind, and the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # kind: path below the folder

    def note(self, kind: str, path: str) -> None:
        self.counts[kind] += 1
        self.first[kind] = min(path, self.first.get(kind, path))  # in whatever order they come

    def file(self, name: str, path: str) -> None:
        """A file that is no picture. Of hidden ones only those count that are called like one."""
        if not is_hidden(name):
            suffix = Path(name).suffix.lower()
            self.note(f"{suffix} files" if suffix else "files without a suffix", path)
        elif is_image(name.lstrip("._")):
            self.note("hidden pictures", path)

    def sentences(self, folder: Path) -> Iterator[str]:
        """One that names it all, if there is anything, and one more if some of it are boxes."""
        if not self.counts:
            return
        kinds = [
            f"{display_name(kind)} ({n:,}, such as {display_name(self.first[kind])})"
            for kind, n in self.counts.most_common(MOST)
        ]
        rest = sum(self.counts.values()) - sum(n for _, n in self.counts.most_common(MOST))
        others = f", and {rest:,} others" if rest else ""
        yield f"left out of {display_name(folder.name)}: {', '.join(kinds)}{others}"
        for path in self.first.values():
            if form := annotation_format(folder / path):
                yield f"{display_name(path)} holds boxes in {form}'s form; {advice(form)}"
                return


@dataclass(frozen=True)
class FolderIndex:
    """The pictures of each set: classes by name, and the pictures of a class by path."""

    classes: tuple[str, ...]
    sets: dict[Split, list[IndexEntry]]
    is_split: bool  # the folder had no sets of its own
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles, compare=False)

    def __iter__(self) -> Iterator[IndexEntry]:
        return (picture for pictures in self.sets.values() for picture in pictures)


def index_folder(path: Path) -> FolderIndex:
    """A folder with train/ and val/ or test/, or a plain folder of classes, split once. Without
    train/, a folder is good to be judged on.

    Raises FileNotFoundError where there is none, and ValueError where it is not such a folder.
    """
    if there := split_folders(path):
        return index_splits(path, there)
    classes = class_folders(path)
    ignored = IgnoredFiles()
    pictures = index_classes(path, path, classes, ignored)
    check_classes(path, path, classes, pictures)
    sets = split_classes(path, classes, pictures)
    return FolderIndex(tuple(map(readable_name, classes)), sets, is_split=True, ignored=ignored)


def split_folders(path: Path) -> dict[Split, str]:
    """The folders that are sets, whatever their spelling; none in a plain folder of classes.

    Raises FileNotFoundError where there is no folder, and ValueError where two are the same set.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {display_name(path)}")
    folders = subfolders(path)
    named = [name for name in folders if split_name(name)]
    several = len({split_name(name) for name in named}) > 1 and "train" in map(split_name, named)
    # A class may be called train; a folder of classes, or one with nothing but sets beside it, is
    # a set.
    if several or len(named) == len(folders) or any(subfolders(path / name) for name in named):
        return split_names(named, path)
    return {}


def index_splits(path: Path, there: dict[Split, str]) -> FolderIndex:
    """The sets that the folder brings; their classes are those of the first of them, by name."""
    first = next(iter(there.values()))
    if list(there) == ["train"]:
        raise ValueError(
            f"{display_name(path)} has {display_name(first)}/ but neither test/ nor val/ to be "
            f"judged on; of {display_name(path / first)} itself, a fifth would be kept for that"
        )
    classes = class_folders(path / first)
    ignored = IgnoredFiles()
    for name in subfolders(path):
        if name not in there.values():
            ignored.note("folders beside the sets", f"{name}/")
    sets: dict[Split, list[IndexEntry]] = {"train": []}
    for name, folder in there.items():
        odd = [label for label in subfolders(path / folder) if label not in classes]
        if odd:
            raise ValueError(
                f"{display_name(path / folder)} has a class {odd[0]!r} that "
                f"{display_name(first)}/ lacks; the classes are "
                f"{', '.join(map(display_name, classes))}"
            )
        sets[name] = index_classes(path, path / folder, classes, ignored)
        if not sets[name]:
            said = annotation_hint(path / folder)
            raise ValueError(
                f"{display_name(path / folder)} has no pictures in class folders{said}"
            )
    check_classes(path, path / first, classes, sets[next(iter(there))])
    return FolderIndex(tuple(map(readable_name, classes)), sets, is_split=False, ignored=ignored)


def require_training_set(path: Path, listed: FolderIndex) -> None:
    """Raises ValueError where there is nothing to learn from."""
    if not listed.sets["train"]:
        there = ", ".join(f"{name}/" for name, own in listed.sets.items() if own)
        raise ValueError(f"{display_name(path)} has {there} but no train/ to learn from")


def split_classes(
    path: Path, classes: tuple[str, ...], pictures: list[IndexEntry]
) -> dict[Split, list[IndexEntry]]:
    """Four fifths to train on and one fifth to be tested on, of each class."""
    # Choice: a fifth of each class, rounded, but at least one picture, drawn by the same integer
    # hash as all else; the split depends on nothing but how many pictures each class has.
    sets: dict[Split, list[IndexEntry]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        own = [picture for picture in pictures if picture.label == label]
        if len(own) < 2:
            raise ValueError(
                f"{display_name(path / name)} has one picture, and a class that is split needs two"
            )
        out = set(permutation(0, label, len(own))[: max(1, round(len(own) / 5))].tolist())
        for i, picture in enumerate(own):
            sets["test" if i in out else "train"].append(picture)
    return sets


def subfolders(folder: Path) -> tuple[str, ...]:
    """The folders in a folder by name, but for hidden ones."""
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name)))


def class_folders(folder: Path) -> tuple[str, ...]:
    """The classes: the folders in a folder. One alone would leave nothing to tell apart.

    Raises ValueError, also where folders are known to be something else than classes.
    """
    classes = subfolders(folder)
    if not classes:
        raise ValueError(
            f"{display_name(folder)} has no class folders; it needs one folder for each class"
            f"{annotation_hint(folder)}"
        )
    refuse_annotation_folders(folder, classes)
    if len(classes) == 1:
        inside = folder / classes[0]
        meant = f", as {display_name(inside)} has" if len(subfolders(inside)) > 1 else ""
        raise ValueError(
            f"{display_name(folder)} has only one class folder, {classes[0]!r}; it needs two{meant}"
            f"{annotation_hint(folder)}"
        )
    return classes


def index_classes(
    path: Path, folder: Path, classes: tuple[str, ...], ignored: IgnoredFiles
) -> list[IndexEntry]:
    """The pictures in the class folders of a folder, with paths below `path`."""
    for entry in os.scandir(folder):
        if is_image(entry.name) and not entry.is_dir():
            ignored.note("pictures in no class folder", below(path, entry))
    return [
        IndexEntry(below(path, entry), label, *size_and_time(entry))
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for entry in sorted(
            iterate_images(folder / name, path, ignored), key=lambda entry: entry.path
        )
    ]


def below(path: Path, entry: "os.DirEntry[str]") -> str:
    """The path of an entry below a folder, with /."""
    return Path(entry.path).relative_to(path).as_posix()


def size_and_time(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """Of a file; zeros of a link to nothing, which is as damaged as a picture can be."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def iterate_images(
    folder: str | Path, path: Path, ignored: IgnoredFiles
) -> Iterator["os.DirEntry[str]"]:
    """The pictures in a folder and in those below it, but for hidden ones."""
    for entry in os.scandir(folder):
        if not is_hidden(entry.name) and entry.is_dir():
            if entry.is_symlink() and is_cyclic_link(Path(entry.path)):
                ignored.note("links to a folder above them", below(path, entry))
            else:
                yield from iterate_images(entry.path, path, ignored)
        elif is_image(entry.name):
            yield entry
        else:
            ignored.file(entry.name, below(path, entry))


def is_cyclic_link(folder: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def check_classes(
    path: Path, folder: Path, classes: tuple[str, ...], pictures: list[IndexEntry]
) -> None:
    """Raises ValueError where a class folder has no pictures, or sets of its own."""
    filled = {picture.label for picture in pictures}
    depth = len((folder / "class").relative_to(path).parts)
    inside: dict[int, dict[Split | None, str]] = {}
    for picture in pictures:
        if picture.path.count("/") > depth:
            name = picture.path.split("/")[depth]
            inside.setdefault(picture.label, {})[split_name(name)] = name
    for label, name in enumerate(classes):
        if label not in filled:
            said = annotation_hint(folder / name) or "; a class needs some"
            raise ValueError(f"{display_name(folder / name)} has no pictures{said}")
        sets = [own for kind, own in inside.get(label, {}).items() if kind]
        if len(sets) > 1:
            raise ValueError(
                f"{display_name(folder / name)} is no class, for it has the sets "
                f"{' and '.join(map(display_name, sets))}; sets come first, with classes in them"
            )


def annotation_format(file: Path) -> str:
    """The form of the boxes in a file, as far as its start tells; "" where it has none."""
    kind = file.suffix.lower()
    if kind not in (".xml", ".json", ".txt", "") or not file.is_file():
        return ""
    try:
        with file.open("rb") as opened:
            start = opened.read(START)
    except OSError:
        return ""
    if kind == ".json":
        listed = b'"images"' in start and b'"file_name"' in start
        return "COCO" if listed or b'"bbox"' in start else ""
    if kind == ".txt":
        lines = list(parse_list(start[:10_000]))[:SOME]
        return "YOLO" if lines and all(map(YOLO.fullmatch, lines)) else ""
    return "PASCAL VOC" if b"<annotation" in start else ""


def advice(form: str) -> str:
    """How to learn from boxes of a form. Those of YOLO are not read."""
    first = "convert them to COCO's or PASCAL VOC's and " if form == "YOLO" else ""
    return f"{first}learn from boxes with: residual detect train NETWORK --data FOLDER"


def annotation_hint(folder: Path) -> str:
    """The end of a sentence that names boxes in a folder and the command for them; or nothing."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        others = (name for name in sorted(files) if not is_image(name) and not is_hidden(name))
        for _, name in zip(range(SOME), others, strict=False):
            if form := annotation_format(Path(root, name)):
                path = Path(root, name).relative_to(folder)
                example = f"{display_name(path)}: {advice(form)}"
                return f"; it holds boxes in {form}'s form, such as {example}"
    return ""


def refuse_annotation_folders(folder: Path, names: tuple[str, ...]) -> None:
    """Raises ValueError where the folders in a folder are pictures and what is said of them."""
    pictures = [name for name in names if name.lower() in PICTURES]
    annotations = [name for name in names if name.lower() in ANNOTATIONS]
    if pictures and annotations:
        said = annotation_hint(folder) or "; classes need one folder of pictures each"
        raise ValueError(
            f"{display_name(folder)} has no class folders: {pictures[0]}/ and {annotations[0]}/ "
            f"are pictures and annotations of them{said}"
        )


def split_name(name: str) -> Split | None:
    """The set that the name of a folder, or of a list without its ending, stands for."""
    letters = SEPARATORS.sub("", name.lower())
    for spelling, found in SPLIT_OF.items():
        if letters.startswith(spelling) and SUFFIX.fullmatch(letters, len(spelling)):
            return found
    return None


def split_names(names: Iterable[str], place: PathLike[str] | str) -> dict[Split, str]:
    """The names that stand for sets, by set, in the order train, val, test; others are left out.

    Raises ValueError where two names stand for one set, such as Train and train, or valid and dev.
    """
    found: dict[Split, str] = {}
    for name in sorted(names):
        own = split_name(name)
        if own is None:
            continue
        if own in found:
            raise ValueError(
                f"{display_name(place)} has {display_name(found[own])} and {display_name(name)}, "
                f"and both are names of the {own} set; merge them, or give one another name"
            )
        found[own] = name
    return {own: found[own] for own in SPLITS if own in found}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: .git, ._cat.jpg, __MACOSX."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for a picture; its contents decide how it is read."""
    return not is_hidden(name) and name.lower().endswith(IMAGE_SUFFIXES)


def suffix_matches(name: str, form: str) -> bool:
    """Whether a file of this format is usually called so."""
    return name.lower().endswith(FORMAT_SUFFIXES[form])
