"""Unpacks the official archives of PASCAL VOC and COCO, and reports missing files."""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath

from torchvision.datasets.voc import DATASET_YEAR_DICT

from residual.preparation.archives import (
    Item,
    ShowProgress,
    copy,
    locked_target,
    open_tar,
    silent,
    verify,
)
from residual.tasks.detection.coco import ANNOTATIONS, PREFIX, read_lists
from residual.tasks.detection.voc import find_split, image_lists

Archives = Mapping[str, tuple[str, str]]  # (file name, md5) of each set

# The number of images in each set: the devkits' documentation, and Sec. 4.3 and Appendix A.
VOC = {"07trainval": 5_011, "07test": 4_952, "12trainval": 11_540}
COCO = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}
VOC_ARCHIVES: Archives = {
    name: (DATASET_YEAR_DICT[year]["filename"], DATASET_YEAR_DICT[year]["md5"])
    for name, year in (("07trainval", "2007"), ("07test", "2007-test"), ("12trainval", "2012"))
}
# The files to unpack. The match is their path below the target.
IN_VOC = re.compile(r"VOC20\d\d/(Annotations|ImageSets/Main|JPEGImages)/[^/]+$")
IN_COCO = re.compile(r"((train|val)20\d\d/[^/.][^/]*\.jpg|annotations/instances_[^/]+\.json)$")


@dataclass
class PreparedBoxes:
    """The content of a prepared VOC or COCO folder, and the expected content."""

    folder: str
    pictures: dict[str, int] = field(default_factory=dict)  # of each existing set
    expected: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # set: the archive that contains it

    @property
    def complete(self) -> bool:
        """Whether a set exists, and all existing sets are complete."""
        full = all(n == self.expected[name] for name, n in self.pictures.items())
        return bool(self.pictures) and full and not self.missing

    def sets(self) -> Iterator[str]:
        """A sentence about each set."""
        for name, n in self.expected.items():
            absent = f"not there; it comes with {self.absent.get(name)}"
            text = absent if name in self.absent else f"{self.pictures[name]:,} of {n:,} pictures"
            yield f"{self.folder}: {name}: {text}"


def voc(
    source: Path,
    target: Path | None = None,
    expected: Mapping[str, int] = VOC,
    archives: Archives = VOC_ARCHIVES,
    show: ShowProgress = silent,
) -> PreparedBoxes:
    """Unpack PASCAL VOC as VOCdevkit/VOC2007 and VOC2012 into a folder, by default `source/voc`.

    Nothing in `source` is changed. Raises FileNotFoundError and ValueError if it holds no archive
    or a damaged one, and OSError if a file cannot be written; the same command then resumes.
    """
    target = target or source / "voc"
    devkit = target / "VOCdevkit"
    files = find_archives(source, {file for file, _ in archives.values()}, devkit)
    for name, md5 in archives.values():
        if source / name in files:
            verify(source / name, md5, target, show)
    unpack(files, IN_VOC, devkit, show)
    report = PreparedBoxes(str(target), expected=dict(expected))
    for name in expected:
        year = devkit / f"VOC20{name[:2]}"
        if name[2:] not in image_lists(year):
            report.absent[name] = archives[name][0]
            continue
        [split] = find_split(year, name[2:])
        names, images = list(split.lines()), split.voc.images
        for image in names:
            if image not in images:
                report.missing.append(f"{year.name}/JPEGImages/{image}.jpg")
            if image not in split.voc.annotations:
                report.missing.append(f"{year.name}/Annotations/{image}.xml")
        report.pictures[name] = sum(image in images for image in names)
    return report


def coco(
    source: Path,
    target: Path | None = None,
    expected: Mapping[str, int] = COCO,
    show: ShowProgress = silent,
) -> PreparedBoxes:
    """Unpack COCO into annotations/ and a folder of images for each set, by default in
    `source/coco`. Raises like `voc`."""
    target = target or source / "coco"
    lists = {name: f"annotations_trainval{name[-4:]}.zip" for name in expected}
    zips = {f"{name}.zip" for name in expected} | set(lists.values())
    unpack(find_archives(source, zips, target), IN_COCO, target, show)
    report = PreparedBoxes(str(target), expected=dict(expected))
    for name in expected:
        if not (target / name).is_dir():
            report.absent[name] = f"{name}.zip"
            continue
        images = {file.name for file in (target / name).iterdir() if file.suffix == ".jpg"}
        report.pictures[name] = len(images)
        file = target / ANNOTATIONS / f"{PREFIX}{name}.json"
        if not file.is_file():
            report.missing.append(f"{file.relative_to(target).as_posix()}, from {lists[name]}")
        elif len(images) < expected[name]:
            listed = {str(image.get("file_name")) for image in read_lists(file)["images"]}
            report.missing += [f"{name}/{image}" for image in sorted(listed - images)]
    return report


def find_archives(source: Path, names: set[str], target: Path) -> list[Path]:
    """The existing archives. Raises if there are none, and no target of an earlier call."""
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}")
    files = [source / name for name in sorted(names) if (source / name).is_file()]
    if not files and not target.is_dir():
        raise ValueError(
            f"{source} holds none of the official archives; looked for {', '.join(sorted(names))}"
        )
    return files


def unpack(files: list[Path], pattern: re.Pattern[str], target: Path, show: ShowProgress) -> None:
    """Unpack the files of archives whose path matches, but for existing complete files."""
    for archive in files:
        opened = zip_items if archive.suffix == ".zip" else tar_items
        with (
            locked_target(target),
            show(f"unpacking {archive.name}") as progress,
            opened(archive, pattern) as items,
        ):
            for done, item in enumerate(items, start=1):
                copy(item, target)
                progress(done, len(items))


@contextmanager
def tar_items(archive: Path, pattern: re.Pattern[str]) -> Iterator[list[Item]]:
    """The matching files of a tar archive; links are never unpacked. Raises ValueError."""
    with open_tar(archive) as opened:
        yield [
            Item(path, member.size, partial(opened.extractfile, member))
            for member in opened
            if member.isfile() and (path := target_path(archive, member.name, pattern))
        ]


@contextmanager
def zip_items(archive: Path, pattern: re.Pattern[str]) -> Iterator[list[Item]]:
    """The matching files of a zip archive. Raises ValueError for a damaged one."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield [
                Item(path, member.file_size, partial(opened.open, member))
                for member in opened.infolist()
                if not member.is_dir() and (path := target_path(archive, member.filename, pattern))
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is damaged: {error}; get it again") from error


def target_path(archive: Path, name: str, pattern: re.Pattern[str]) -> str:
    """The path below the target of a file in an archive; empty if it does not match.

    Raises ValueError for a path that leads out of the folder.
    """
    path = PureWindowsPath(name)  # which knows the separators and drives of every system
    if path.anchor or ".." in path.parts:
        raise ValueError(
            f"{archive} is not the official archive: {name!r} in it leads out of the folder"
        )
    match = pattern.search(path.as_posix())
    return match[0] if match else ""
