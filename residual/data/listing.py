"""What lies in a folder of pictures: which sets, which classes, which files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from residual.data.draws import order
from residual.data.filenames import SETS, Split, is_hidden, is_picture


@dataclass(frozen=True)
class Picture:
    """A picture's file and the class of the folder that it lies in."""

    path: str  # below the folder of all sets, with /
    label: int
    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """The pictures of each set: classes by name, and the pictures of a class by path."""

    classes: tuple[str, ...]
    sets: dict[Split, list[Picture]]
    divided: bool  # the folder had no sets of its own

    def __iter__(self) -> Iterator[Picture]:
        return (picture for pictures in self.sets.values() for picture in pictures)


def listing(path: Path) -> Listing:
    """A folder with train/ and val/ or test/, or a plain folder of classes, split once. Without
    train/, a folder is good to be judged on.

    Raises FileNotFoundError where there is none, and ValueError where it is not such a folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    there = [name for name in SETS if (path / name).is_dir()]
    with_classes = [name for name in there if subfolders(path / name)]
    if with_classes or ("train" in there and len(there) > 1):
        return with_sets(path, there)
    classes = class_folders(path)
    return Listing(classes, split_once(path, in_classes(path, path, classes)), divided=True)


def with_sets(path: Path, there: list[Split]) -> Listing:
    """The sets that the folder brings; their classes are those of the first of them, by name."""
    if there == ["train"]:
        raise ValueError(f"{path} has train/ but neither test/ nor val/ to be judged on")
    first = there[0]
    classes = class_folders(path / first)
    sets: dict[Split, list[Picture]] = {"train": []}
    for name in there:
        odd = [folder for folder in subfolders(path / name) if folder not in classes]
        if odd:
            raise ValueError(
                f"{path / name} has a class {odd[0]!r} that {first}/ lacks; "
                f"the classes are {', '.join(classes)}"
            )
        sets[name] = in_classes(path, path / name, classes)
        if not sets[name]:
            raise ValueError(f"{path / name} has no pictures")
    refuse_empty(path / first, classes, sets[first])
    return Listing(classes, sets, divided=False)


def refuse_untaught(path: Path, listed: Listing) -> None:
    """Raises ValueError where there is nothing to learn from."""
    if not listed.sets["train"]:
        there = ", ".join(f"{name}/" for name, own in listed.sets.items() if own)
        raise ValueError(f"{path} has {there} but no train/ to learn from")


def split_once(path: Path, pictures: list[Picture]) -> dict[Split, list[Picture]]:
    """Four fifths to train on and one fifth to be tested on, of each class."""
    classes = class_folders(path)
    refuse_empty(path, classes, pictures)
    # Choice: a fifth of each class, rounded, but at least one picture, drawn by the same integer
    # hash as all else; the split depends on nothing but how many pictures each class has.
    sets: dict[Split, list[Picture]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        own = [picture for picture in pictures if picture.label == label]
        if len(own) < 2:
            raise ValueError(f"{path / name} has one picture, and a class that is split needs two")
        out = set(order(0, label, len(own))[: max(1, round(len(own) / 5))].tolist())
        for i, picture in enumerate(own):
            sets["test" if i in out else "train"].append(picture)
    return sets


def subfolders(folder: Path) -> tuple[str, ...]:
    """The folders in a folder by name, but for hidden ones."""
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name)))


def class_folders(folder: Path) -> tuple[str, ...]:
    """The classes: the folders in a folder. One alone would leave nothing to tell apart."""
    classes = subfolders(folder)
    if not classes:
        raise ValueError(f"{folder} has no class folders; it needs one folder for each class")
    if len(classes) == 1:
        raise ValueError(f"{folder} has only one class folder, {classes[0]!r}; it needs two")
    return classes


def in_classes(path: Path, folder: Path, classes: tuple[str, ...]) -> list[Picture]:
    """The pictures in the class folders of a folder, with paths below `path`."""
    return [
        Picture(Path(entry.path).relative_to(path).as_posix(), label, *size_and_time(entry))
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for entry in sorted(visible(folder / name), key=lambda entry: entry.path)
    ]


def size_and_time(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """Of a file; zeros of a link to nothing, which is as damaged as a picture can be."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def visible(folder: str | Path) -> Iterator["os.DirEntry[str]"]:
    """The pictures in a folder and in those below it, but for hidden ones."""
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from visible(entry.path)
        elif is_picture(entry.name):
            yield entry


def refuse_empty(folder: Path, classes: tuple[str, ...], pictures: list[Picture]) -> None:
    """Nothing is learned of a class without pictures."""
    filled = {picture.label for picture in pictures}
    for label, name in enumerate(classes):
        if label not in filled:
            raise ValueError(f"{folder / name} has no pictures; add some or remove the folder")
