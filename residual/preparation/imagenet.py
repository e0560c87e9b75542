"""ImageNet (ILSVRC 2012), from whatever one has of it, as train/<wnid>/ and val/<wnid>/.

torchvision knows the official archives and their checksums, and these are taken from it. It unpacks
them in their own folder, all at once and with twice the space, so that is done here.
"""

import csv
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from scipy.io import loadmat
from torchvision.datasets.imagenet import ARCHIVE_META

from residual.data.folder_index import is_image, subfolders
from residual.preparation.archives import (
    Counting,
    Item,
    Part,
    opened_archive,
    prepare,
    silent,
    verified,
)
from residual.storage import damage_errors, decode_text, parse_list, read_list, write_json

META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"  # in the devkit's data/
COLUMNS: dict[str, Callable[[Any], Any]] = dict.fromkeys(
    ("ILSVRC2012_ID", "num_children", "num_train_images"), int
)
COLUMNS |= dict.fromkeys(("WNID", "words"), str)
SOLUTION, SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # Kaggle's


@dataclass(frozen=True)
class Known:
    """What the devkit or Kaggle's lists tell."""

    words: dict[str, str] = field(default_factory=dict)  # wnid: what it means
    train: dict[str, int] = field(default_factory=dict)  # wnid: training pictures
    val: dict[str, str] = field(default_factory=dict)  # file of val: its wnid


def told_by(source: Path, archive: Path) -> Known:
    """What the devkit, packed or unpacked, or else Kaggle's lists tell; nothing without them.

    Raises ValueError for what is damaged.
    """
    if archive.is_file():
        with opened_archive(archive) as opened, damage_errors(archive):
            files = {Path(member.name).name: member for member in opened if member.isfile()}
            if META in files and TRUTH in files:
                meta, truth = (opened.extractfile(files[name]) for name in (META, TRUTH))
                return devkit(cast(IO[bytes], meta).read(), cast(IO[bytes], truth).read())
            raise ValueError(f"{archive} has no {META} and {TRUTH}; it is not the devkit")
    for folder in (source / "ILSVRC2012_devkit_t12" / "data", source / "data", source):
        if (folder / META).is_file() and (folder / TRUTH).is_file():
            with damage_errors(folder / META):
                return devkit((folder / META).read_bytes(), (folder / TRUTH).read_bytes())
    return kaggle(source)


def devkit(meta: bytes, truth: bytes) -> Known:
    """The devkit's tables. Only synsets without children are classes of the challenge."""
    # In a process of its own: scipy's reader crashes at some damaged files.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            rows = pool.submit(synsets, meta).result()
        except BrokenProcessPool as error:
            raise ValueError("it is damaged: its reader crashed") from error
    leaves = [row for row in rows if int(row["num_children"]) == 0]
    wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    numbers = list(parse_list(truth))
    if odd := [line for line in numbers if not line.isdecimal() or int(line) not in wnid]:
        raise ValueError(f"{TRUTH} is damaged: {odd[0]!r} is no number of a class")
    return Known(
        words={str(row["WNID"]): str(row["words"]) for row in leaves},
        train={
            str(row["WNID"]): int(row["num_train_images"])
            for row in leaves
            if "num_train_images" in row
        },
        val={
            f"ILSVRC2012_val_{i:08}.JPEG": wnid[int(line)]
            for i, line in enumerate(numbers, start=1)
        },
    )


def synsets(meta: bytes) -> list[dict[str, Any]]:
    """The rows of meta.mat. Raises ValueError where it is damaged."""
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        names = [name for name in table.dtype.names or () if name in COLUMNS]
        return [{name: COLUMNS[name](row[name]) for name in names} for row in table]
    except Exception as error:  # a reader raises whatever its parsing stumbles on
        raise ValueError(f"it is damaged: {str(error) or type(error).__name__}") from None


def kaggle(source: Path) -> Known:
    """Kaggle's lists, as far as they lie there."""
    words: dict[str, str] = {}
    if (source / SYNSETS).is_file():
        for line in read_list(source / SYNSETS):
            wnid, *meaning = line.split(maxsplit=1)
            words[wnid] = "".join(meaning) or wnid
    val: dict[str, str] = {}
    if (source / SOLUTION).is_file():
        text = decode_text((source / SOLUTION).read_bytes())
        with damage_errors(source / SOLUTION):
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for row in rows:
            picture, answer = row.get("ImageId"), (row.get("PredictionString") or "").split()
            if not picture or not answer:
                raise ValueError(
                    f"{source / SOLUTION} is damaged: it needs columns ImageId and "
                    f"PredictionString, and has a line {[*row.values()]!r}"
                )
            val[f"{picture.strip()}.JPEG"] = answer[0]
    return Known(words=words, val=val)


Archives = Mapping[str, tuple[str, str]]  # train, val and devkit: (file name, md5)
WNID = re.compile(r"n\d{8}")
FLAT = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")


@dataclass(frozen=True)
class Expected:
    """How many pictures and classes there must be: those of Sec. 4.1 and of the challenge."""

    train: int = 1_281_167
    val: int = 50_000
    classes: int = 1_000


@dataclass
class Report:
    """What a prepared folder holds, and what it should hold."""

    folder: str
    pictures: dict[str, int] = field(default_factory=dict)  # of train and val, as far as there
    classes: dict[str, int] = field(default_factory=dict)
    expected: Expected = Expected()
    missing: list[str] = field(default_factory=list)
    superfluous: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether each set that is there holds what it should, and nothing is missing."""
        wanted = asdict(self.expected)
        return not self.missing and all(
            self.pictures[name] == wanted[name] and self.classes[name] == wanted["classes"]
            for name in self.pictures
        )


def imagenet(
    source: Path,
    target: Path | None = None,
    expected: Expected = Expected(),
    archives: Archives = ARCHIVE_META,
    counting: Counting = silent,
) -> Report:
    """Prepare what lies in `source` in `target`, and say what is there then.

    Without a target it is `source/imagenet`, or `source` itself where that is sorted already.
    Nothing in `source` is changed. Raises FileNotFoundError and ValueError where it holds no
    ImageNet, and OSError where something cannot be written.
    """
    found = found_in(source, archives)
    if target is None:
        target = source if not unplaced(found, source) else source / "imagenet"
    todo = unplaced(found, target)
    try:
        if todo:
            target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {target}: {error.strerror}") from error
    kit, checksum = source / archives["devkit"][0], archives["devkit"][1]
    if todo and kit.is_file():
        verified(kit, checksum, target, counting)
    known = told_by(source, kit)
    if "val" in todo and (todo["val"].is_file() or flat(todo["val"])) and not known.val:
        raise ValueError(
            f"{todo['val']} does not say which class a picture is of; put {kit.name} "
            f"(or what is in it, or Kaggle's {SOLUTION}) into {source}"
        )
    for name, place in todo.items():
        if place.is_file():
            verified(place, archives[name][1], target, counting)
    total = sum(getattr(expected, name) for name in todo)
    with counting("preparing pictures") as progress:
        prepare(parts(todo, known), target, progress, total)
    if todo and known.words:
        write_json(target / "classes.json", known.words)
    return judged(target, known, expected)


# ---- what there is ------------------------------------------------------------------------------


def found_in(source: Path, archives: Archives) -> dict[str, Path]:
    """Where train and val come from: an archive, a folder of class folders, or a flat folder."""
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}")
    # What is sorted comes last: it may be what an interrupted preparation has made of the others.
    places: dict[str, list[str | Path]] = {
        "train": [archives["train"][0], KAGGLE / "train", "train"],
        "val": [archives["val"][0], KAGGLE / "val", "ILSVRC2012_img_val", ".", "val"],
    }
    found: dict[str, Path] = {}
    for name, candidates in places.items():
        for place in (source / candidate for candidate in candidates):
            sorted_already = place != source and place.is_dir() and wnids(place)
            if place.is_file() or sorted_already or (name == "val" and flat(place)):
                found.setdefault(name, place)
    if not found:
        raise ValueError(
            f"{source} holds no ImageNet; looked for {archives['train'][0]}, "
            f"{archives['val'][0]}, {KAGGLE}/, ILSVRC2012_val_00000001.JPEG and so on, "
            "and for train/ and val/ with a folder for each class, such as n01440764"
        )
    return found


def wnids(folder: Path) -> list[str]:
    """The class folders in a folder."""
    return [name for name in subfolders(folder) if WNID.fullmatch(name)]


def flat(folder: Path) -> bool:
    """Whether pictures of the validation set lie in a folder directly."""
    return folder.is_dir() and any(FLAT.fullmatch(entry.name) for entry in os.scandir(folder))


def unplaced(found: dict[str, Path], target: Path) -> dict[str, Path]:
    """Those that are not in the target yet, as they should be."""
    return {
        name: place
        for name, place in found.items()
        if place.resolve() != (target / name).resolve() or (name == "val" and flat(place))
    }


# ---- what is to be done -------------------------------------------------------------------------


def parts(todo: dict[str, Path], known: Known) -> Iterator[Part]:
    """Each class of train, and val as a whole."""
    if train := todo.get("train"):
        yield from train_archive(train) if train.is_file() else train_folder(train)
    if val := todo.get("val"):
        yield Part("val", partial(val_archive if val.is_file() else val_folder, val, known))


def train_archive(archive: Path) -> Iterator[Part]:
    """The training archive holds an archive of each class."""
    with opened_archive(archive) as outer:
        for member in outer:
            wnid = Path(member.name).stem
            if member.isfile() and WNID.fullmatch(wnid):
                yield Part(f"train/{wnid}", partial(class_archive, archive, outer, member))


def class_archive(archive: Path, outer: tarfile.TarFile, member: Any) -> Iterator[Item]:
    """The pictures of a class in the training archive."""
    folder = f"train/{Path(member.name).stem}"
    with opened_archive(archive / member.name, outer.extractfile(member)) as inner:
        for picture in inner:
            name = Path(picture.name).name
            if is_image(name) and picture.isfile():
                read = cast(Any, partial(inner.extractfile, picture))
                yield Item(f"{folder}/{name}", picture.size, read)


def train_folder(folder: Path) -> Iterator[Part]:
    for wnid in wnids(folder):
        yield Part(f"train/{wnid}", partial(class_folder, folder / wnid, f"train/{wnid}"))


def class_folder(folder: Path, name: str) -> Iterator[Item]:
    """The pictures of a class folder, for a folder of this name below the target."""
    for file in sorted(folder.iterdir()):
        if is_image(file.name):
            yield Item(f"{name}/{file.name}", file.stat().st_size, file)


def val_archive(archive: Path, known: Known) -> Iterator[Item]:
    with opened_archive(archive) as opened:
        for picture in opened:
            name = Path(picture.name).name
            if picture.isfile() and name in known.val:
                read = cast(Any, partial(opened.extractfile, picture))
                yield Item(f"val/{known.val[name]}/{name}", picture.size, read)


def val_folder(folder: Path, known: Known) -> Iterator[Item]:
    """Those that lie there directly, and those that are sorted already."""
    for file in sorted(folder.iterdir()):
        if file.name in known.val:
            yield Item(f"val/{known.val[file.name]}/{file.name}", file.stat().st_size, file)
    for wnid in wnids(folder) if folder.name == "val" else ():
        yield from class_folder(folder / wnid, f"val/{wnid}")


# ---- what is there then -------------------------------------------------------------------------


def judged(target: Path, known: Known, expected: Expected) -> Report:
    """Compare a prepared folder with what is known of it."""
    report = Report(str(target), expected=expected)
    for name in ("train", "val"):
        place = target / name
        if not place.is_dir():
            continue
        classes = {
            label: {file.name for file in (place / label).iterdir() if is_image(file.name)}
            for label in subfolders(place)
        }
        report.pictures[name] = sum(map(len, classes.values()))
        report.classes[name] = len(classes)
        wanted = set(known.words) or {label for label in classes if WNID.fullmatch(label)}
        report.missing += [f"{name}/{label}/" for label in sorted(wanted - classes.keys())]
        if len(wanted) < expected.classes:
            report.missing.append(f"{name}/: {expected.classes - len(wanted):,} classes")
        report.superfluous += [f"{name}/{label}/" for label in sorted(classes.keys() - wanted)]
        report.superfluous += [
            f"{name}/{file.name}" for file in sorted(place.iterdir()) if is_image(file.name)
            and not file.is_dir()
        ]  # fmt: skip
        there = {label: classes[label] for label in sorted(wanted & classes.keys())}
        if name == "val" and known.val:
            by_name(report, there, known)
            continue
        of_each = dict.fromkeys(there, expected.val // expected.classes)
        by_number(report, name, there, known.train if name == "train" else of_each)
    return report


def by_name(report: Report, there: dict[str, set[str]], known: Known) -> None:
    """Compare the pictures of each class of val with those that belong there."""
    belong: dict[str, set[str]] = {}
    for file, label in known.val.items():
        belong.setdefault(label, set()).add(file)
    for label, files in there.items():
        mine = belong.get(label, set())
        report.missing += [f"val/{label}/{file}" for file in sorted(mine - files)]
        report.superfluous += [f"val/{label}/{file}" for file in sorted(files - mine)]


def by_number(report: Report, name: str, there: dict[str, set[str]], want: dict[str, int]) -> None:
    """Compare how many pictures each class has with how many it should have, where that is told."""
    for label, files in there.items():
        if len(files) != want.get(label, len(files)):
            line = f"{name}/{label}/: {len(files):,} pictures, not {want[label]:,}"
            (report.missing if len(files) < want[label] else report.superfluous).append(line)
