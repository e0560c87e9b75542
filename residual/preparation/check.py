"""What is wrong in a folder of pictures, file by file, before anything is trained on it."""

import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from residual.data.datasets import Progress, no_progress
from residual.data.decode import DamagedImage, OversizedImage, UnknownFormat, inspect_image
from residual.data.folder_index import (
    IMAGE_SUFFIXES,
    SPLITS,
    annotation_hint,
    index_folder,
    is_cyclic_link,
    is_hidden,
    is_image,
    require_training_set,
    split_folders,
    subfolders,
    suffix_matches,
)
from residual.storage import display_name, readable_name, summarize

CHUNK = 16  # files that a thread takes at a time
PLAIN = "all"  # the one set of a folder that has no sets of its own
# Choice: what is still called equal. Of ImageNet's classes the largest is 1.8 times the smallest.
UNEQUAL = 5
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Problem:
    """A file that cannot be learned from."""

    path: str  # below the folder, with /
    label: str  # its class
    kind: str  # damaged, empty, unreadable, oversized or mislabelled
    reason: str


@dataclass
class Report:
    """What was found in a folder."""

    folder: str
    sets: dict[str, dict[str, int]] = field(default_factory=dict)  # whole pictures of each class
    damaged: list[Problem] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)  # what is done: how often
    misnamed: dict[str, str] = field(default_factory=dict)  # path: what it is
    others: list[str] = field(default_factory=list)  # in class folders, no picture by its ending
    outside: list[str] = field(default_factory=list)  # pictures that lie in no class folder
    folders: list[str] = field(default_factory=list)  # that are named like pictures
    copies: list[list[str]] = field(default_factory=list)  # pictures of equal bytes
    warnings: list[str] = field(default_factory=list)
    refusal: str = ""  # why training would not take the folder

    @property
    def seen(self) -> int:
        """How many pictures there are, whole or not."""
        return sum(sum(own.values()) for own in self.sets.values()) + len(self.damaged)


@dataclass(frozen=True)
class Look:
    """What one file is."""

    kind: str = ""  # of what is wrong with it
    reason: str = ""
    form: str = ""
    changes: tuple[str, ...] = ()
    digest: bytes = b""


def check(path: Path, workers: int = 1, progress: Progress | None = None) -> Report:
    """Look into every picture of a folder: of its train/, val/ and test/, or of its classes.

    Raises FileNotFoundError where there is no folder, and ValueError where it has no classes.
    """
    report = Report(str(path))
    pictures = [
        (name, label, file)
        for name, place in places(path).items()
        for label, file in in_place(path, place, report)
    ]
    tell = progress or no_progress
    changes: Counter[str] = Counter()
    first: dict[bytes, str] = {}
    copies: dict[str, list[str]] = {}
    looks = in_turn(path, [file for *_, file in pictures], workers)
    for done, ((name, label, file), look) in enumerate(zip(pictures, looks, strict=True), start=1):
        if look.kind:
            report.damaged.append(Problem(file, label, look.kind, look.reason))
        else:
            report.sets.setdefault(name, Counter())[label] += 1
            if (other := first.setdefault(look.digest, file)) != file:
                copies.setdefault(other, [other]).append(file)
            changes.update(look.changes)
            if not suffix_matches(file, look.form):
                report.misnamed[file] = look.form
        tell(done, len(pictures))
    report.damaged.sort(key=lambda problem: problem.path)
    report.converted = dict(changes.most_common())
    report.copies = list(copies.values())
    report.sets = counts(path, report)
    report.refusal = refused(path)
    refusals = [f"training refuses this folder: {report.refusal}"] if report.refusal else []
    report.warnings = [*refusals, *beside(path), *uneven(report), *twice(report)]
    return report


def places(path: Path) -> dict[str, Path]:
    """The folder of each set; a plain folder of classes is one set."""
    if there := split_folders(path):
        return {name: path / folder for name, folder in there.items()}
    if not subfolders(path):
        raise ValueError(
            f"{display_name(path)} has no class folders; it needs one folder for each class"
            f"{annotation_hint(path)}"
        )
    return {PLAIN: path}


def in_place(path: Path, place: Path, report: Report) -> Iterator[tuple[str, str]]:
    """Each picture in a set's folder as (class, path below all); what is none goes to the report.

    What training takes is what is looked at: see `listing`.
    """

    def refuse(error: OSError) -> None:
        folder = Path(error.filename).relative_to(path)
        label = readable_name(folder.relative_to(place.relative_to(path)).parts[0])
        report.damaged.append(Problem(folder.as_posix(), label, "unreadable", said(error)))

    report.outside += [
        entry.relative_to(path).as_posix()
        for entry in sorted(place.iterdir())
        if is_image(entry.name) and not entry.is_dir()
    ]
    for label in subfolders(place):
        for root, folders, files in os.walk(place / label, onerror=refuse, followlinks=True):
            below = Path(root)
            for folder in [f for f in folders if is_cyclic_link(below / f)]:
                refuse(OSError(0, "it is a link to a folder above it", str(below / folder)))
                folders.remove(folder)
            report.folders += [
                (below / folder).relative_to(path).as_posix()
                for folder in sorted(folders)
                if folder.lower().endswith(IMAGE_SUFFIXES)
            ]
            folders[:] = sorted(folder for folder in folders if not is_hidden(folder))
            for file in sorted(file for file in files if not is_hidden(file)):
                name = (below / file).relative_to(path).as_posix()
                if is_image(file):
                    yield readable_name(label), name
                else:
                    report.others.append(name)


def in_turn(path: Path, files: list[str], workers: int) -> Iterator[Look]:
    """What each file is, whoever looked at it. Most of the work is Pillow's, so threads do."""

    def chunk(start: int) -> list[Look]:
        return [look_at(path / file) for file in files[start : start + CHUNK]]

    pool = ThreadPoolExecutor(workers)
    try:
        with warnings.catch_warnings():  # what a reader mends by itself is no damage
            warnings.simplefilter("ignore")
            for some in pool.map(chunk, range(0, len(files), CHUNK)):
                yield from some
    finally:
        pool.shutdown(cancel_futures=True)


def look_at(file: Path) -> Look:
    """Read a file as training does. Whatever is wrong with it, nothing is raised."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading from a pipe would wait for ever
            return Look("unreadable", "it is no regular file")
        raw = file.read_bytes()
        if not raw:
            return Look("empty", "it has no bytes")
        form, changes = inspect_image(raw)
    except OSError as error:
        dangling = file.is_symlink() and isinstance(error, FileNotFoundError)
        return Look("unreadable", "it is a link to nothing" if dangling else said(error))
    except MemoryError:
        return Look("oversized", "there is not enough memory for it")
    except DamagedImage as error:
        return Look(*wrong(error, raw))
    return Look(form=form, changes=changes, digest=hashlib.sha256(raw).digest())


def wrong(error: DamagedImage, raw: bytes) -> tuple[str, str]:
    """The kind of the damage, and what there is to be said of it."""
    if isinstance(error, UnknownFormat):
        return unknown(raw)
    kind = "oversized" if isinstance(error, OversizedImage) else "damaged"
    return kind, str(error).removeprefix("the picture is damaged: ")


def unknown(raw: bytes) -> tuple[str, str]:
    """The same of contents in which no reader knows a picture."""
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


def said(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def counts(path: Path, report: Report) -> dict[str, dict[str, int]]:
    """Whole pictures of each class that any set has, in each set, zeros among them."""
    there = places(path)
    classes = sorted(
        {readable_name(name) for place in there.values() for name in subfolders(place)}
    )
    return {
        name: {label: report.sets.get(name, {}).get(label, 0) for label in classes}
        for name in there
    }


def refused(path: Path) -> str:
    """Why training would not take the folder as it is; nothing where it would."""
    try:
        require_training_set(path, index_folder(path))
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{display_name(error.filename)}: {said(error)}"
    return ""


def beside(path: Path) -> Iterator[str]:
    """Folders that a user may have meant to be sets."""
    there = split_folders(path)
    for name in subfolders(path) if there else ():
        if name not in there.values():
            yield f"{display_name(name)}/ is none of {', '.join(SPLITS)} and was not looked at"


def uneven(report: Report) -> Iterator[str]:
    """Classes without pictures, and classes of very different size."""
    for name, own in report.sets.items():
        empty = [label for label, n in own.items() if not n]
        filled = {label: n for label, n in own.items() if n}
        if empty:
            yield f"classes without a whole picture in {name} {summarize(empty)}"
        if filled and max(filled.values()) > UNEQUAL * min(filled.values()):
            most, least = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
            yield (
                f"the classes of {name} are very unequal: {most} has {filled[most]:,} pictures and "
                f"{least} {filled[least]:,}, {filled[most] / filled[least]:.0f} to 1"
            )


def twice(report: Report) -> Iterator[str]:
    """Equal pictures where they do harm."""
    across, contrary, rest = [], [], []
    divided = PLAIN not in report.sets
    for files in report.copies:  # of each set, or of each class, the first is named
        sets = {file.split("/")[0] if divided else "": file for file in reversed(files)}
        classes = {file.split("/")[divided]: file for file in reversed(files)}
        if len(sets) > 1:
            across.append(" = ".join(sorted(sets.values(), key=files.index)))
        elif len(classes) > 1:
            contrary.append(" = ".join(sorted(classes.values(), key=files.index)))
        else:
            rest.append(" = ".join(files[:2]))
    for what, files in (
        ("in more than one set, so that what is judged on was learned", across),
        ("in more than one class", contrary),
        ("more than once in their class", rest),
    ):
        if files:
            yield f"equal pictures {what} {summarize(files)}"
