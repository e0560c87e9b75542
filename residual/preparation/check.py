"""Checks an image folder before training: damaged files, counts of classes, likely mistakes."""

import hashlib
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from residual.data.datasets import Progress, no_progress
from residual.data.decode import DamagedImage, OversizedImage, UnknownFormat, inspect_image
from residual.data.folder_index import (
    SPLITS,
    IgnoredFiles,
    annotation_hint,
    images_outside,
    index_folder,
    iterate_images,
    require_training_set,
    split_folders,
    subfolders,
    suffix_matches,
)
from residual.data.loader import read_ahead
from residual.storage import display_name, readable_name, summarize

AHEAD = 16  # files of each thread that are inspected ahead
PLAIN = "all"  # the one set of a folder without sets
# Choice: classes are reported as unequal if their sizes have at least this ratio. The largest class
# of ImageNet has 1.8 times the images of the smallest.
UNEQUAL = 5
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class ImageProblem:
    """An image that cannot be used."""

    path: str  # below the folder, with /
    kind: str  # damaged, empty, unreadable, oversized or mislabelled
    reason: str


@dataclass(frozen=True)
class LabeledProblem(ImageProblem):
    """An image of a class that cannot be used."""

    label: str


@dataclass
class ImageReport:
    """The result of a check of any folder."""

    folder: str
    converted: dict[str, int] = field(default_factory=dict)  # conversion: number of images
    misnamed: dict[str, str] = field(default_factory=dict)  # path: its format
    warnings: list[str] = field(default_factory=list)


@dataclass
class FolderReport(ImageReport):
    """The result of a check of an image folder."""

    sets: dict[str, dict[str, int]] = field(default_factory=dict)  # good images by set and class
    damaged: list[LabeledProblem] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # files in class folders, by suffix no images
    outside: list[str] = field(default_factory=list)  # images in no class folder
    folders: list[str] = field(default_factory=list)  # folders with names of images
    copies: list[list[str]] = field(default_factory=list)  # images of equal bytes
    refusal: str = ""  # why training would refuse the folder

    @property
    def total(self) -> int:
        """The number of images, damaged ones included."""
        return sum(sum(counts.values()) for counts in self.sets.values()) + len(self.damaged)


@dataclass(frozen=True)
class Inspection:
    """The content of one file; `kind` and `reason` if it is no good image."""

    kind: str = ""
    reason: str = ""
    format: str = ""
    changes: tuple[str, ...] = ()  # by decoding
    digest: bytes = b""


def check(path: Path, workers: int = 1, progress: Progress = no_progress) -> FolderReport:
    """Inspect every image of a folder of classes, or of its train/, val/ and test/.

    Raises FileNotFoundError for a missing folder, and ValueError for one without classes.
    """
    report, folders = FolderReport(str(path)), split_folders(path)
    if not folders and not subfolders(path):
        raise ValueError(
            f"{display_name(path)} has no class folders; it needs one folder for each class"
            f"{annotation_hint(path)}"
        )
    roots: dict[str, Path] = {name: path / folder for name, folder in folders.items()}
    roots = roots or {PLAIN: path}
    images = index_sets(path, roots, report)
    classes = sorted({readable_name(n) for root in roots.values() for n in subfolders(root)})
    report.sets = {name: dict.fromkeys(classes, 0) for name in roots}
    damaged, report.copies = inspect_images(report, path, list(images), workers, progress)
    for file, (name, label) in images.items():
        if bad := damaged.get(file):
            report.damaged.append(LabeledProblem(file, bad.kind, bad.reason, label))
        else:
            report.sets[name][label] += 1
    report.damaged.sort(key=lambda problem: problem.path)
    report.refusal = training_refusal(path)
    report.warnings = [f"training refuses this folder: {report.refusal}"] if report.refusal else []
    report.warnings += [
        f"{display_name(name)}/ is none of {', '.join(SPLITS)} and was not looked at"
        for name in subfolders(path)
        if folders and name not in folders.values()
    ]
    report.warnings += [*imbalance(report), *copy_warnings(report)]
    return report


def index_sets(
    path: Path, roots: Mapping[str, Path], report: FolderReport
) -> dict[str, tuple[str, str]]:
    """The set and the class of each image that training reads, by its path below the folder.

    Unreadable folders and all other files are added to the report.
    """
    images: dict[str, tuple[str, str]] = {}
    for name, root in roots.items():
        report.outside += images_outside(path, root)
        for folder in subfolders(root):
            ignored, label = IgnoredFiles(), readable_name(folder)
            files = sorted(iterate_images(path, root / folder, ignored))
            images |= dict.fromkeys(files, (name, label))
            bad = dict.fromkeys(ignored.cyclic_links, "it is a link to a folder above it")
            for error in ignored.unreadable:
                bad[Path(error.filename).relative_to(path).as_posix()] = reason_of(error)
            report.damaged += [LabeledProblem(f, "unreadable", bad[f], label) for f in bad]
            report.others += sorted(ignored.others)
            report.folders += sorted(ignored.like_images)
    return images


def inspect_images(
    report: ImageReport, path: Path, files: list[str], workers: int, progress: Progress
) -> tuple[dict[str, Inspection], list[list[str]]]:
    """Inspect files below a folder -> the bad ones, and groups of files with equal bytes.

    Conversions and misnamed files are added to the report.
    """
    bad, changes = {}, Counter[str]()
    first: dict[bytes, str] = {}
    copies: dict[str, list[str]] = {}  # by the first of them
    # Threads share the work, since most of it is Pillow's.
    results = read_ahead(lambda file: inspect(path / file), files, workers, AHEAD * workers)
    with warnings.catch_warnings(action="ignore"):  # of faults that Pillow repairs
        for done, (file, wait) in enumerate(zip(files, results, strict=True), start=1):
            result = wait()
            if result.kind:
                bad[file] = result
            else:
                changes.update(result.changes)
                if (other := first.setdefault(result.digest, file)) != file:
                    copies.setdefault(other, [other]).append(file)
                if not suffix_matches(file, result.format):
                    report.misnamed[file] = result.format
            progress(done, len(files))
    report.converted = dict(changes.most_common())
    return bad, list(copies.values())


def inspect(file: Path) -> Inspection:
    """Read a file as training does. Raises nothing."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading from a pipe would never end
            return Inspection("unreadable", "it is no regular file")
        raw = file.read_bytes()
        if not raw:
            return Inspection("empty", "it has no bytes")
        image_format, changes = inspect_image(raw)
    except OSError as error:
        dangling = file.is_symlink() and isinstance(error, FileNotFoundError)
        return Inspection("unreadable", "it is a link to nothing" if dangling else reason_of(error))
    except MemoryError:
        return Inspection("oversized", "there is not enough memory for it")
    except DamagedImage as error:
        if isinstance(error, UnknownFormat):
            kind, reason = unknown_content(raw)
        else:
            kind = "oversized" if isinstance(error, OversizedImage) else "damaged"
            reason = str(error).partition(": ")[2]  # after "the picture is damaged"
        return Inspection(kind, reason)
    return Inspection("", "", image_format, changes, hashlib.sha256(raw).digest())


def unknown_content(raw: bytes) -> tuple[str, str]:
    """The kind and the reason for bytes that no decoder recognises."""
    start = raw[:512]
    if not raw.strip(b"\0"):
        return "damaged", "all of its bytes are zero"
    if start.startswith(SIGNATURES):
        return "damaged", "its header is broken or cut off"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "mislabelled", "it is a web page (HTML), not a picture"
    if not any(byte < 9 or 13 < byte < 32 for byte in start):
        return "mislabelled", "it is text, not a picture"
    if start[4:8] == b"ftyp":
        return "mislabelled", "it is HEIC, AVIF or a film, which are not read; convert it"
    return "mislabelled", "it is no picture in a known format"


def reason_of(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def training_refusal(path: Path) -> str:
    """Why training would refuse the folder; empty if it would not."""
    try:
        require_training_set(path, index_folder(path))
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{display_name(error.filename)}: {reason_of(error)}"
    return ""


# ---- warnings -----------------------------------------------------------------------------------


def imbalance(report: FolderReport) -> Iterator[str]:
    """Classes without images, and classes of very different size."""
    for name, counts in report.sets.items():
        if empty := [label for label, n in counts.items() if not n]:
            yield f"classes without a whole picture in {name} {summarize(empty)}"
        filled = {label: n for label, n in counts.items() if n}
        if filled and max(filled.values()) > UNEQUAL * min(filled.values()):
            most, least = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
            yield (
                f"the classes of {name} are very unequal: {most} has {filled[most]:,} pictures and "
                f"{least} {filled[least]:,}, {filled[most] / filled[least]:.0f} to 1"
            )


def copy_warnings(report: FolderReport) -> Iterator[str]:
    """Images of equal bytes, by the harm that they do."""
    across, contradictory, repeated = [], [], []
    depth = PLAIN not in report.sets  # of the class in a path
    for files in report.copies:  # the first of each set, or else of each class, is named
        by_set = {file.split("/")[0] if depth else "": file for file in reversed(files)}
        by_class = {file.split("/")[depth]: file for file in reversed(files)}
        if len(by_set) > 1:
            across.append(" = ".join(sorted(by_set.values(), key=files.index)))
        elif len(by_class) > 1:
            contradictory.append(" = ".join(sorted(by_class.values(), key=files.index)))
        else:
            repeated.append(" = ".join(files[:2]))
    yield from describe_copies(
        ("in more than one set, so that test images are trained on", across),
        ("in more than one class", contradictory),
        ("more than once in their class", repeated),
    )


def describe_copies(*groups: tuple[str, list[str]]) -> Iterator[str]:
    """A sentence for each group of equal images that is not empty."""
    for place, files in groups:
        if files:
            yield f"equal pictures {place} {summarize(files)}"
