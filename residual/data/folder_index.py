"""What lies in a folder of pictures: which sets, which classes, which files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from residual.data.filenames import (
    Split,
    is_hidden,
    is_picture,
    readable,
    set_of,
    sets_among,
    shown,
)
from residual.data.rng import order
from residual.data.strays import LeftOut, boxes_said, refuse_annotations


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
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    def __iter__(self) -> Iterator[Picture]:
        return (picture for pictures in self.sets.values() for picture in pictures)


def listing(path: Path) -> Listing:
    """A folder with train/ and val/ or test/, or a plain folder of classes, split once. Without
    train/, a folder is good to be judged on.

    Raises FileNotFoundError where there is none, and ValueError where it is not such a folder.
    """
    if there := sets_of(path):
        return with_sets(path, there)
    classes = class_folders(path)
    left_out = LeftOut()
    pictures = in_classes(path, path, classes, left_out)
    refuse_no_classes(path, path, classes, pictures)
    sets = split_once(path, classes, pictures)
    return Listing(tuple(map(readable, classes)), sets, divided=True, left_out=left_out)


def sets_of(path: Path) -> dict[Split, str]:
    """The folders that are sets, whatever their spelling; none in a plain folder of classes.

    Raises FileNotFoundError where there is no folder, and ValueError where two are the same set.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {shown(path)}")
    folders = subfolders(path)
    named = [name for name in folders if set_of(name)]
    several = len({set_of(name) for name in named}) > 1 and "train" in map(set_of, named)
    # A class may be called train; a folder of classes, or one with nothing but sets beside it, is
    # a set.
    if several or len(named) == len(folders) or any(subfolders(path / name) for name in named):
        return sets_among(named, path)
    return {}


def with_sets(path: Path, there: dict[Split, str]) -> Listing:
    """The sets that the folder brings; their classes are those of the first of them, by name."""
    first = next(iter(there.values()))
    if list(there) == ["train"]:
        raise ValueError(
            f"{shown(path)} has {shown(first)}/ but neither test/ nor val/ to be judged on; "
            f"of {shown(path / first)} itself, a fifth would be kept for that"
        )
    classes = class_folders(path / first)
    left_out = LeftOut()
    for name in subfolders(path):
        if name not in there.values():
            left_out.note("folders beside the sets", f"{name}/")
    sets: dict[Split, list[Picture]] = {"train": []}
    for name, folder in there.items():
        odd = [label for label in subfolders(path / folder) if label not in classes]
        if odd:
            raise ValueError(
                f"{shown(path / folder)} has a class {odd[0]!r} that {shown(first)}/ lacks; "
                f"the classes are {', '.join(map(shown, classes))}"
            )
        sets[name] = in_classes(path, path / folder, classes, left_out)
        if not sets[name]:
            said = boxes_said(path / folder)
            raise ValueError(f"{shown(path / folder)} has no pictures in class folders{said}")
    refuse_no_classes(path, path / first, classes, sets[next(iter(there))])
    return Listing(tuple(map(readable, classes)), sets, divided=False, left_out=left_out)


def refuse_untaught(path: Path, listed: Listing) -> None:
    """Raises ValueError where there is nothing to learn from."""
    if not listed.sets["train"]:
        there = ", ".join(f"{name}/" for name, own in listed.sets.items() if own)
        raise ValueError(f"{shown(path)} has {there} but no train/ to learn from")


def split_once(
    path: Path, classes: tuple[str, ...], pictures: list[Picture]
) -> dict[Split, list[Picture]]:
    """Four fifths to train on and one fifth to be tested on, of each class."""
    # Choice: a fifth of each class, rounded, but at least one picture, drawn by the same integer
    # hash as all else; the split depends on nothing but how many pictures each class has.
    sets: dict[Split, list[Picture]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        own = [picture for picture in pictures if picture.label == label]
        if len(own) < 2:
            raise ValueError(
                f"{shown(path / name)} has one picture, and a class that is split needs two"
            )
        out = set(order(0, label, len(own))[: max(1, round(len(own) / 5))].tolist())
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
            f"{shown(folder)} has no class folders; it needs one folder for each class"
            f"{boxes_said(folder)}"
        )
    refuse_annotations(folder, classes)
    if len(classes) == 1:
        inside = folder / classes[0]
        meant = f", as {shown(inside)} has" if len(subfolders(inside)) > 1 else ""
        raise ValueError(
            f"{shown(folder)} has only one class folder, {classes[0]!r}; it needs two{meant}"
            f"{boxes_said(folder)}"
        )
    return classes


def in_classes(
    path: Path, folder: Path, classes: tuple[str, ...], left_out: LeftOut
) -> list[Picture]:
    """The pictures in the class folders of a folder, with paths below `path`."""
    for entry in os.scandir(folder):
        if is_picture(entry.name) and not entry.is_dir():
            left_out.note("pictures in no class folder", below(path, entry))
    return [
        Picture(below(path, entry), label, *size_and_time(entry))
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for entry in sorted(
            pictures_below(folder / name, path, left_out), key=lambda entry: entry.path
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


def pictures_below(
    folder: str | Path, path: Path, left_out: LeftOut
) -> Iterator["os.DirEntry[str]"]:
    """The pictures in a folder and in those below it, but for hidden ones."""
    for entry in os.scandir(folder):
        if not is_hidden(entry.name) and entry.is_dir():
            if entry.is_symlink() and endless(Path(entry.path)):
                left_out.note("links to a folder above them", below(path, entry))
            else:
                yield from pictures_below(entry.path, path, left_out)
        elif is_picture(entry.name):
            yield entry
        else:
            left_out.file(entry.name, below(path, entry))


def endless(folder: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def refuse_no_classes(
    path: Path, folder: Path, classes: tuple[str, ...], pictures: list[Picture]
) -> None:
    """Raises ValueError where a class folder has no pictures, or sets of its own."""
    filled = {picture.label for picture in pictures}
    depth = len((folder / "class").relative_to(path).parts)
    inside: dict[int, dict[Split | None, str]] = {}
    for picture in pictures:
        if picture.path.count("/") > depth:
            name = picture.path.split("/")[depth]
            inside.setdefault(picture.label, {})[set_of(name)] = name
    for label, name in enumerate(classes):
        if label not in filled:
            said = boxes_said(folder / name) or "; a class needs some"
            raise ValueError(f"{shown(folder / name)} has no pictures{said}")
        sets = [own for kind, own in inside.get(label, {}).items() if kind]
        if len(sets) > 1:
            raise ValueError(
                f"{shown(folder / name)} is no class, for it has the sets "
                f"{' and '.join(map(shown, sets))}; sets come first, with classes in them"
            )
