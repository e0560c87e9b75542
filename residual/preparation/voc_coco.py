"""PASCAL VOC and COCO from their official archives, with what detection needs of them."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, cast

from torchvision.datasets.voc import DATASET_YEAR_DICT

from residual.preparation.archives import (
    Counting,
    Item,
    filling,
    opened_archive,
    put,
    silent,
    verified,
)
from residual.tasks.detection import coco as of_coco
from residual.tasks.detection import voc as of_voc

Archives = Mapping[str, tuple[str, str]]  # of each set: (file name, md5)
Contents = AbstractContextManager[list[Item]]  # of an archive, while it is open

# How many pictures each set has: the devkits' documentation, and Sec. 4.3 and Appendix A.
VOC = {"07trainval": 5_011, "07test": 4_952, "12trainval": 11_540}
COCO = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}
VOC_ARCHIVES: Archives = {
    name: (DATASET_YEAR_DICT[year]["filename"], DATASET_YEAR_DICT[year]["md5"])
    for name, year in (("07trainval", "2007"), ("07test", "2007-test"), ("12trainval", "2012"))
}
# From here on a file has its place below the target; all else in an archive is left in it.
IN_VOC = re.compile(r"VOC20\d\d/(Annotations|ImageSets/Main|JPEGImages)/[^/]+$")
IN_COCO = re.compile(r"((train|val)20\d\d/[^/.][^/]*\.jpg|annotations/instances_[^/]+\.json)$")


@dataclass
class Report:
    """What a prepared folder holds, and what it should hold."""

    folder: str
    pictures: dict[str, int] = field(default_factory=dict)  # of each set that is there
    expected: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # set: the archive that would bring it

    @property
    def complete(self) -> bool:
        """Whether there is a set, and each one that is there holds what it should."""
        whole = all(n == self.expected[name] for name, n in self.pictures.items())
        return bool(self.pictures) and whole and not self.missing


def voc(
    source: Path,
    target: Path | None = None,
    expected: Mapping[str, int] = VOC,
    archives: Archives = VOC_ARCHIVES,
    counting: Counting = silent,
) -> Report:
    """Put PASCAL VOC as VOCdevkit/VOC2007 and VOC2012 into a folder, and say what is there then.

    Without a target it is `source/voc`. Nothing in `source` is changed. Raises FileNotFoundError
    and ValueError where it holds none of the archives or a damaged one, and OSError where
    something cannot be written; then the same command goes on.
    """
    target = target or source / "voc"
    devkit = target / "VOCdevkit"
    there = archives_in(source, {archive for archive, _ in archives.values()}, devkit)
    for archive, checksum in archives.values():
        if archive in there:
            target.mkdir(parents=True, exist_ok=True)
            verified(source / archive, checksum, target, counting)
    unpack([source / archive for archive in there], tarred, IN_VOC, devkit, counting)
    report = Report(str(target), expected=dict(expected))
    for name in expected:
        year = devkit / f"VOC20{name[:2]}"
        if name[2:] in of_voc.image_lists(year):
            judge_voc(report, name, year)
        else:
            report.absent[name] = archives[name][0]
    return report


def coco(
    source: Path,
    target: Path | None = None,
    expected: Mapping[str, int] = COCO,
    counting: Counting = silent,
) -> Report:
    """The same for COCO: annotations/ and a folder of pictures for each set; `source/coco`."""
    target = target or source / "coco"
    zips = {f"{name}.zip" for name in expected} | {zip_of(name) for name in expected}
    there = archives_in(source, zips, target)
    unpack([source / archive for archive in there], zipped, IN_COCO, target, counting)
    report = Report(str(target), expected=dict(expected))
    for name in expected:
        if (target / name).is_dir():
            judge_coco(report, name, target)
        else:
            report.absent[name] = f"{name}.zip"
    return report


def zip_of(name: str) -> str:
    """The archive with the annotations of a set."""
    return f"annotations_trainval{name[-4:]}.zip"


# ---- what is to be done -------------------------------------------------------------------------


def archives_in(source: Path, names: set[str], target: Path) -> list[str]:
    """Those archives that are there. Raises where there are none, and nothing of them either."""
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}")
    there = sorted(name for name in names if (source / name).is_file())
    if not there and not target.is_dir():
        raise ValueError(
            f"{source} holds none of the official archives; looked for {', '.join(sorted(names))}"
        )
    return there


def unpack(
    archives: list[Path],
    opened: Callable[[Path, re.Pattern[str]], Contents],
    wanted: re.Pattern[str],
    target: Path,
    counting: Counting,
) -> None:
    """Put what is wanted of each archive in its place. What is there, whole, is not done again."""
    for archive in archives:
        with (
            filling(target),
            counting(f"unpacking {archive.name}") as progress,
            opened(archive, wanted) as items,
        ):
            for done, item in enumerate(items, start=1):
                put(item, target)
                progress(done, len(items))


@contextmanager
def tarred(archive: Path, wanted: re.Pattern[str]) -> Iterator[list[Item]]:
    """What is wanted of a tar archive. Only files are: no link in it is ever made."""
    with opened_archive(archive) as opened:
        yield [
            Item(place, member.size, cast(Any, partial(opened.extractfile, member)))
            for member in opened
            if member.isfile() and (place := place_of(archive, member.name, wanted))
        ]


@contextmanager
def zipped(archive: Path, wanted: re.Pattern[str]) -> Iterator[list[Item]]:
    """What is wanted of a zip archive. Raises ValueError where it is damaged."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield [
                Item(place, member.file_size, cast(Any, partial(opened.open, member)))
                for member in opened.infolist()
                if not member.is_dir() and (place := place_of(archive, member.filename, wanted))
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is damaged: {error}; get it again") from error


def place_of(archive: Path, name: str, wanted: re.Pattern[str]) -> str:
    """Where a file of an archive belongs; nowhere if it is not wanted. Raises ValueError."""
    path = PureWindowsPath(name)  # which knows every way to lead out of a folder
    if path.anchor or ".." in path.parts:
        raise ValueError(
            f"{archive} is not the official archive: {name!r} in it leads out of the folder"
        )
    match = wanted.search(path.as_posix())
    return match[0] if match else ""


# ---- what is there then -------------------------------------------------------------------------


def judge_voc(report: Report, name: str, year: Path) -> None:
    """Whether each picture that a list names is there, with its annotation."""
    own = of_voc.VocFolder(year, year / of_voc.ANNOTATIONS, year / of_voc.IMAGES)
    pictures = own.images
    named = [line for images in of_voc.find_split(year, name[2:]) for line in images.lines()]
    for one in named:
        if one not in pictures:
            report.missing.append(f"{year.name}/{of_voc.IMAGES}/{one}.jpg")
        if not (own.annotation_folder / f"{one}.xml").is_file():
            report.missing.append(f"{year.name}/{of_voc.ANNOTATIONS}/{one}.xml")
    report.pictures[name] = sum(one in pictures for one in named)


def judge_coco(report: Report, name: str, target: Path) -> None:
    """Whether a set has its annotations, and each picture that they name."""
    there = {file.name for file in (target / name).iterdir() if file.suffix == ".jpg"}
    report.pictures[name] = len(there)
    file = target / of_coco.ANNOTATIONS / f"{of_coco.PREFIX}{name}.json"
    if not file.is_file():
        report.missing.append(f"{file.relative_to(target).as_posix()}, from {zip_of(name)}")
    elif len(there) < report.expected[name]:
        named = {str(image.get("file_name")) for image in of_coco.read_lists(file)["images"]}
        report.missing += [f"{name}/{one}" for one in sorted(named - there)]
