"""Pictures put where they belong, so that an interruption at any moment loses nothing."""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from residual.data.datasets import Progress
from residual.data.folder_index import is_image
from residual.locks import hold_lock
from residual.storage import read_json, write_json

MARKS = ".prepared.json"  # in the target: which parts are whole, which archives were checked
MEGABYTE = 1 << 20

Counting = Callable[[str], AbstractContextManager[Progress]]  # of what -> its progress


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """Progress that nobody asked for."""
    yield lambda _done, _total: None


@dataclass(frozen=True)
class Item:
    """A picture that is to be put somewhere: a file, or a file in an archive."""

    path: str  # below the target
    size: int  # in bytes
    source: Path | Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Part:
    """Pictures that are prepared together, and marked once all of them are whole."""

    name: str  # their folder below the target
    items: Callable[[], Iterable[Item]]


@contextmanager
def filling(target: Path) -> Iterator[None]:
    """While this process alone puts pictures into a folder. Raises Held and OSError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {target}: {error.strerror}") from error
    with hold_lock(target / ".lock", str(target)):
        yield


def prepare(parts: Iterable[Part], target: Path, progress: Progress, total: int) -> None:
    """Put every picture of every part where it belongs. What is whole is not done again.

    Raises OSError where one cannot be written; then give the same command again.
    """
    done = 0
    for part in parts:
        n = marks(target)["whole"].get(part.name)
        if n is None or n != pictures_in(target / part.name):
            n = 0
            with filling(target):
                for item in part.items():
                    put(item, target)
                    n += 1
                    progress(done + n, max(total, done + n))
                mark(target, "whole", part.name, n)
        done += n
        progress(done, max(total, done))


def put(item: Item, target: Path) -> None:
    """Put a picture in its place, whole or not at all: as a hard link, or else as a copy."""
    file = target / item.path
    with suppress(FileNotFoundError):
        if file.stat().st_size == item.size:
            return
    partial = file.with_name(f".{file.name}.partial")  # hidden, so that nobody takes it for one
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # never written into: it may be a link to the original
        if not (isinstance(item.source, Path) and linked(item.source, partial)):
            copy(item, partial)
        partial.replace(file)
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"cannot prepare {file}: {reason}; all that was written before is whole, "
            "and the same command goes on from there"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def linked(source: Path, file: Path) -> bool:
    """Whether a second name could be given to a file; another disk, for one, does not allow it."""
    try:
        file.hardlink_to(source.resolve())
    except OSError:
        return False
    return True


def copy(item: Item, file: Path) -> None:
    """Copy a picture to a file. Raises OSError where less came than there should be."""
    original = item.source.open("rb") if isinstance(item.source, Path) else item.source()
    with original, file.open("wb") as opened:
        shutil.copyfileobj(original, opened, MEGABYTE)
    if file.stat().st_size != item.size:
        raise OSError("it is cut off where it comes from")


def pictures_in(folder: Path) -> int:
    """How many pictures lie in a folder and in those below it."""
    return sum(is_image(file) for *_, files in os.walk(folder) for file in files)


def marks(target: Path) -> dict[str, dict[str, Any]]:
    """What is known to be done in a target. Where the marks are damaged, nothing is."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = read_json(target / MARKS)
        return {"whole": known["whole"], "checked": known["checked"]}
    return {"whole": {}, "checked": {}}


def mark(target: Path, of: str, name: str, value: Any) -> None:
    """Remember what was done, once it is on the disk and not only on its way there."""
    if hasattr(os, "sync"):  # once for many pictures; a flush for each of them takes hours
        os.sync()
    known = marks(target)
    known[of][name] = value
    write_json(target / MARKS, known)


def verified(archive: Path, checksum: str, target: Path, counting: Counting) -> None:
    """Raises ValueError where an archive has not this md5. What was checked is not read again."""
    stat = archive.stat()
    mine = [stat.st_size, stat.st_mtime_ns, checksum]
    if marks(target)["checked"].get(archive.name) == mine:
        return
    digest, total = hashlib.md5(usedforsecurity=False), -(-stat.st_size // MEGABYTE)
    with counting(f"checking {archive.name}, in MB") as progress, archive.open("rb") as opened:
        done = 0
        while block := opened.read(MEGABYTE):
            digest.update(block)
            done += 1
            progress(done, max(total, done))
    if digest.hexdigest() != checksum:
        raise ValueError(
            f"{archive} is damaged or not the official archive: its md5 is {digest.hexdigest()} "
            f"and should be {checksum}; get it again"
        )
    mark(target, "checked", archive.name, mine)


@contextmanager
def opened_archive(archive: Path, file: IO[bytes] | None = None) -> Iterator[tarfile.TarFile]:
    """An archive, or one in another, to be read. Raises ValueError where it is damaged."""
    try:
        with tarfile.open(archive, fileobj=file) as opened:
            yield opened
    except (tarfile.TarError, EOFError) as error:
        reason = (str(error) or "it is cut off").splitlines()[0].rstrip(":")
        raise ValueError(f"{archive} is damaged: {reason}") from error
