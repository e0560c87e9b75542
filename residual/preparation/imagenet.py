"""Prepares ImageNet (ILSVRC 2012) as train/<wnid>/ and val/<wnid>/, from any of its usual forms.

torchvision names the official archives and their checksums. Its own preparation unpacks them in
place, all at once and with twice the space.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.io import loadmat
from torchvision.datasets.imagenet import ARCHIVE_META

from residual.data.folder_index import images_outside, is_image, subfolders
from residual.preparation.archives import (
    Item,
    Part,
    ShowProgress,
    create_target,
    open_tar,
    prepare,
    silent,
    verify,
)
from residual.storage import damage_errors, decode_text, parse_list, read_list, write_json

Archives = Mapping[str, tuple[str, str]]  # (file name, md5) of train, val and devkit
WNID = re.compile(r"n\d{8}")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"  # in the devkit's data/
COLUMNS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("ILSVRC2012_ID", "num_children", "num_train_images"), int),
    **dict.fromkeys(("WNID", "words"), str),
}
IMAGENET = {"train": 1_281_167, "val": 50_000, "classes": 1_000}  # images (Sec. 4.1) and classes
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
SOLUTION, SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # Kaggle's


@dataclass(frozen=True)
class Labels:
    """The classes and the labels of images in the devkit or in Kaggle's lists."""

    words: dict[str, str] = field(default_factory=dict)  # wnid: its meaning
    train: dict[str, int] = field(default_factory=dict)  # wnid: number of training images
    val: dict[str, str] = field(default_factory=dict)  # file of val: its wnid


@dataclass
class PreparedImageNet:
    """The content of a prepared folder, and the expected content."""

    folder: str
    pictures: dict[str, int] = field(default_factory=dict)  # of the existing sets
    classes: dict[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=IMAGENET.copy)
    missing: list[str] = field(default_factory=list)
    superfluous: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the existing sets have the expected images and classes."""
        full = all(n == self.expected[name] for name, n in self.pictures.items())
        return full and not self.missing and {*self.classes.values()} <= {self.expected["classes"]}

    def sets(self) -> Iterator[str]:
        """A sentence about each set."""
        for name in ("train", "val"):
            text = "not there, and nothing to make it of"
            if name in self.pictures:
                classes = f"{self.classes[name]:,} of {self.expected['classes']:,} classes"
                text = f"{self.pictures[name]:,} of {self.expected[name]:,} pictures in {classes}"
            yield f"{self.folder}/{name}: {text}"


def imagenet(
    source: Path,
    target: Path | None = None,
    expected: Mapping[str, int] = IMAGENET,
    archives: Archives = ARCHIVE_META,
    show: ShowProgress = silent,
) -> PreparedImageNet:
    """Prepare the ImageNet in `source` in `target`, and compare it with the official content.

    The default target is `source/imagenet`, or `source` if that is sorted already. Nothing in
    `source` is changed. Raises FileNotFoundError and ValueError if it holds no ImageNet, and
    OSError if a file cannot be written.
    """
    places = find_sets(source, archives)
    if target is None:
        target = source if not unsorted(places, source) else source / "imagenet"
    todo = unsorted(places, target)
    if todo:
        create_target(target)
    devkit, md5 = source / archives["devkit"][0], archives["devkit"][1]
    if todo and devkit.is_file():
        verify(devkit, md5, target, show)
    labels = read_labels(source, devkit)
    if "val" in todo and (todo["val"].is_file() or is_flat(todo["val"])) and not labels.val:
        raise ValueError(
            f"{todo['val']} does not say which class a picture is of; put {devkit.name} "
            f"(or what is in it, or Kaggle's {SOLUTION}) into {source}"
        )
    for name, place in todo.items():
        if place.is_file():
            verify(place, archives[name][1], target, show)
    with show("preparing pictures") as progress:
        total = sum(expected[name] for name in todo)
        prepare(parts(todo, labels), target, progress, total)
    if todo and labels.words:
        write_json(target / "classes.json", labels.words)
    return compare(target, labels, expected)


# ---- labels -------------------------------------------------------------------------------------


def read_labels(source: Path, archive: Path) -> Labels:
    """The labels in the devkit, packed or unpacked, or in Kaggle's lists; empty without them.

    Raises ValueError for damaged files.
    """
    if archive.is_file():
        with open_tar(archive) as opened, damage_errors(archive):
            contents = {
                Path(member.name).name: file.read()
                for member in opened
                if member.isfile() and Path(member.name).name in (META, TRUTH)
                if (file := opened.extractfile(member))
            }
            if len(contents) < 2:
                raise ValueError(f"{archive} has no {META} and {TRUTH}; it is not the devkit")
            return devkit_labels(contents[META], contents[TRUTH])
    for folder in (source / "ILSVRC2012_devkit_t12" / "data", source / "data", source):
        if (folder / META).is_file() and (folder / TRUTH).is_file():
            with damage_errors(folder / META):
                return devkit_labels((folder / META).read_bytes(), (folder / TRUTH).read_bytes())
    return kaggle_labels(source)


def devkit_labels(meta: bytes, truth: bytes) -> Labels:
    """The labels in the devkit. Only synsets without children are classes of the challenge."""
    # In another process: scipy's reader crashes at some damaged files.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            rows = pool.submit(read_synsets, meta).result()
        except BrokenProcessPool as error:
            raise ValueError("it is damaged: its reader crashed") from error
    leaves = [row for row in rows if row["num_children"] == 0]
    wnids = {row["ILSVRC2012_ID"]: row["WNID"] for row in leaves}
    lines = list(parse_list(truth))
    if wrong := [line for line in lines if not line.isdecimal() or int(line) not in wnids]:
        raise ValueError(f"{TRUTH} is damaged: {wrong[0]!r} is no number of a class")
    return Labels(
        {row["WNID"]: row["words"] for row in leaves},
        {row["WNID"]: row["num_train_images"] for row in leaves if "num_train_images" in row},
        {f"ILSVRC2012_val_{i:08}.JPEG": wnids[int(line)] for i, line in enumerate(lines, start=1)},
    )


def read_synsets(meta: bytes) -> list[dict[str, Any]]:
    """The rows of meta.mat. Raises ValueError for a damaged file."""
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        names = [name for name in table.dtype.names or () if name in COLUMNS]
        return [{name: COLUMNS[name](row[name]) for name in names} for row in table]
    except Exception as error:  # damage can cause any exception
        raise ValueError(f"it is damaged: {str(error) or type(error).__name__}") from None


def kaggle_labels(source: Path) -> Labels:
    """The labels in Kaggle's lists, if they exist."""
    words: dict[str, str] = {}
    if (source / SYNSETS).is_file():
        for line in read_list(source / SYNSETS):
            wnid, *meaning = line.split(maxsplit=1)
            words[wnid] = "".join(meaning) or wnid
    val: dict[str, str] = {}
    file = source / SOLUTION
    if file.is_file():
        text = decode_text(file.read_bytes())
        with damage_errors(file):
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for row in rows:
            image, answer = row.get("ImageId"), (row.get("PredictionString") or "").split()
            if not image or not answer:
                raise ValueError(
                    f"{file} is damaged: it needs columns ImageId and PredictionString, and has a "
                    f"line {[*row.values()]!r}"
                )
            val[f"{image.strip()}.JPEG"] = answer[0]
    return Labels(words=words, val=val)


# ---- sources ------------------------------------------------------------------------------------


def find_sets(source: Path, archives: Archives) -> dict[str, Path]:
    """The sources of train and val: an archive, a folder of class folders, or a flat folder."""
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}")
    # Sorted folders come last: they may be the result of an interrupted preparation of the others.
    candidates: dict[str, list[str | Path]] = {
        "train": [archives["train"][0], KAGGLE / "train", "train"],
        "val": [archives["val"][0], KAGGLE / "val", "ILSVRC2012_img_val", ".", "val"],
    }
    places: dict[str, Path] = {}
    for name, paths in candidates.items():
        for place in (source / path for path in paths):
            is_sorted = place != source and place.is_dir() and wnids_in(place)
            if place.is_file() or is_sorted or (name == "val" and is_flat(place)):
                places.setdefault(name, place)
    if not places:
        raise ValueError(
            f"{source} holds no ImageNet; looked for {archives['train'][0]}, "
            f"{archives['val'][0]}, {KAGGLE}/, ILSVRC2012_val_00000001.JPEG and so on, "
            "and for train/ and val/ with a folder for each class, such as n01440764"
        )
    return places


def wnids_in(folder: Path) -> list[str]:
    """The class folders in a folder."""
    return [name for name in subfolders(folder) if WNID.fullmatch(name)]


def is_flat(folder: Path) -> bool:
    """Whether a folder holds images of the validation set directly."""
    return folder.is_dir() and any(VAL_IMAGE.fullmatch(entry.name) for entry in os.scandir(folder))


def unsorted(places: dict[str, Path], target: Path) -> dict[str, Path]:
    """The sources that are not the sorted folders of the target."""
    return {
        name: place
        for name, place in places.items()
        if place.resolve() != (target / name).resolve() or (name == "val" and is_flat(place))
    }


def parts(todo: dict[str, Path], labels: Labels) -> Iterator[Part]:
    """The parts of a preparation: each class of train, and val."""
    train, val = todo.get("train"), todo.get("val")
    if train and train.is_file():
        with open_tar(train) as outer:  # an archive for each class
            for member in outer:
                name, wnid = Path(member.name).name, Path(member.name).stem
                if member.isfile() and WNID.fullmatch(wnid):
                    inner = partial(tar_images, train / name, class_path(f"train/{wnid}"))
                    yield f"train/{wnid}", partial(inner, outer.extractfile(member))
    elif train:
        for wnid in wnids_in(train):
            path = class_path(f"train/{wnid}")
            yield f"train/{wnid}", partial(folder_images, train / wnid, path)
    if not val:
        return

    def val_path(name: str) -> str:
        return f"val/{labels.val[name]}/{name}" if name in labels.val else ""

    def val_images(folder: Path) -> Iterator[Item]:  # flat, sorted, or both
        yield from folder_images(folder, val_path)
        for wnid in wnids_in(folder) if folder.name == "val" else ():
            yield from folder_images(folder / wnid, class_path(f"val/{wnid}"))

    images = partial(tar_images, val, val_path) if val.is_file() else partial(val_images, val)
    yield "val", images


PathOf = Callable[[str], str]  # the path below the target by a file's name; empty for other files


def class_path(folder: str) -> PathOf:
    """The paths of images in a class folder of the target."""
    return lambda name: f"{folder}/{name}" if is_image(name) else ""


def tar_images(archive: Path, path_of: PathOf, file: IO[bytes] | None = None) -> Iterator[Item]:
    """The images in a tar archive, or in `file` in another archive."""
    with open_tar(archive, file) as opened:
        for image in opened:
            path = path_of(Path(image.name).name)
            if path and image.isfile():
                yield Item(path, image.size, partial(opened.extractfile, image))


def folder_images(folder: Path, path_of: PathOf) -> Iterator[Item]:
    """The images in a folder."""
    for file in sorted(folder.iterdir()):
        if path := path_of(file.name):
            yield Item(path, file.stat().st_size, file)


# ---- result -------------------------------------------------------------------------------------


def compare(target: Path, labels: Labels, expected: Mapping[str, int]) -> PreparedImageNet:
    """Compare a prepared folder with its labels and the expected numbers."""
    report = PreparedImageNet(str(target), expected=expected)
    for name in ("train", "val"):
        root = target / name
        if not root.is_dir():
            continue
        classes = {
            label: {file.name for file in (root / label).iterdir() if is_image(file.name)}
            for label in subfolders(root)
        }
        report.pictures[name] = sum(map(len, classes.values()))
        report.classes[name] = len(classes)
        official = set(labels.words) or {label for label in classes if WNID.fullmatch(label)}
        report.missing += [f"{name}/{label}/" for label in sorted(official - classes.keys())]
        if (lacking := expected["classes"] - len(official)) > 0:
            report.missing.append(f"{name}/: {lacking:,} classes")
        report.superfluous += [f"{name}/{label}/" for label in sorted(classes.keys() - official)]
        report.superfluous += images_outside(target, root)
        present = {label: classes[label] for label in sorted(official & classes.keys())}
        if name == "val" and labels.val:
            listed = {
                f"val/{wnid}/{image}" for image, wnid in labels.val.items() if wnid in present
            }
            paths = {f"val/{x}/{image}" for x, images in present.items() for image in images}
            report.missing += sorted(listed - paths)
            report.superfluous += sorted(paths - listed)
            continue
        number = expected["val"] // expected["classes"]
        numbers = labels.train if name == "train" else dict.fromkeys(classes, number)
        for label, images in present.items():
            n, right = len(images), numbers.get(label, len(images))
            if n != right:
                lines = report.missing if n < right else report.superfluous
                lines.append(f"{name}/{label}/: {n:,} pictures, not {right:,}")
    return report
