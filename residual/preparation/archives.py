"""Copies images from archives and folders into a target: each whole or absent, and resumable."""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from residual.data.datasets import Progress, no_progress
from residual.data.folder_index import is_image
from residual.locks import hold_lock
from residual.storage import read_json, write_json

STATE = ".prepared.json"  # in the target: its complete parts, and the verified archives
MEGABYTE = 1 << 20

ShowProgress = Callable[[str], AbstractContextManager[Progress]]  # with the name of the work


def silent(_: str) -> AbstractContextManager[Progress]:
    """Shows no progress."""
    return nullcontext(no_progress)


@dataclass(frozen=True)
class Item:
    """A file to copy into the target."""

    path: str  # below the target
    size: int  # in bytes
    source: Path | Callable[[], IO[bytes] | None]  # a file, or a function that opens it in a tar


# Images that are recorded as complete together: their folder below the target, and a function.
Part = tuple[str, Callable[[], Iterable[Item]]]


def create_target(target: Path) -> None:
    """Create the target. Raises OSError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {target}: {error.strerror}") from error


@contextmanager
def locked_target(target: Path) -> Iterator[None]:
    """Create the target, and let no other process write to it. Raises LockHeld and OSError."""
    create_target(target)
    with hold_lock(target / ".lock", str(target)):
        yield


def prepare(parts: Iterable[Part], target: Path, progress: Progress, total: int) -> None:
    """Copy the images of all parts, but for complete parts.

    Raises OSError if one cannot be written; the same command then resumes.
    """
    done = 0
    for name, items in parts:
        files = (file for *_, files in os.walk(target / name) for file in files)
        n = read_state(target)["whole"].get(name)
        if n is None or n != sum(map(is_image, files)):
            n = 0
            with locked_target(target):
                for item in items():
                    copy(item, target)
                    n += 1
                    progress(done + n, max(total, done + n))
                record(target, "whole", name, n)
        done += n
        progress(done, max(total, done))


def copy(item: Item, target: Path) -> None:
    """Copy a file to its place, whole or not at all: as a hard link if possible.

    Raises OSError if it cannot be written or is cut off.
    """
    file = target / item.path
    with suppress(FileNotFoundError):
        if file.stat().st_size == item.size:
            return
    partial = file.with_name(f".{file.name}.partial")  # hidden, so that nobody reads it
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # never written into: it may be a link to the original
        if isinstance(item.source, Path):
            with suppress(OSError):  # e.g. on another disk
                partial.hardlink_to(item.source.resolve())
        if not partial.exists():
            source = item.source.open("rb") if isinstance(item.source, Path) else item.source()
            assert source is not None
            with source, partial.open("wb") as copied:
                shutil.copyfileobj(source, copied, MEGABYTE)
            if partial.stat().st_size != item.size:
                raise OSError("its source is cut off")
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


def read_state(target: Path) -> dict[str, dict[str, Any]]:
    """The state of a target; empty if it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        state = read_json(target / STATE)
        return {"whole": state["whole"], "checked": state["checked"]}
    return {"whole": {}, "checked": {}}


def record(target: Path, key: str, name: str, value: Any) -> None:
    """Add to the state of a target, once all its files have reached the disk."""
    if hasattr(os, "sync"):  # once for many images; a flush for each of them takes hours
        os.sync()
    state = read_state(target)
    state[key][name] = value
    write_json(target / STATE, state)


def verify(archive: Path, md5: str, target: Path, show: ShowProgress) -> None:
    """Raises ValueError if an archive has another md5. A verified archive is not read again."""
    create_target(target)  # which holds the result
    status = archive.stat()
    entry = [status.st_size, status.st_mtime_ns, md5]
    if read_state(target)["checked"].get(archive.name) == entry:
        return
    digest, total = hashlib.md5(usedforsecurity=False), -(-status.st_size // MEGABYTE)
    with show(f"checking {archive.name}, in MB") as progress, archive.open("rb") as file:
        for done, block in enumerate(iter(lambda: file.read(MEGABYTE), b""), start=1):
            digest.update(block)
            progress(done, max(total, done))
    if digest.hexdigest() != md5:
        raise ValueError(
            f"{archive} is damaged or not the official archive: its md5 is {digest.hexdigest()} "
            f"and should be {md5}; get it again"
        )
    record(target, "checked", archive.name, entry)


@contextmanager
def open_tar(archive: Path, file: IO[bytes] | None = None) -> Iterator[tarfile.TarFile]:
    """A tar archive, or `file` in another archive. Raises ValueError for a damaged one."""
    try:
        with tarfile.open(archive, fileobj=file) as opened:
            yield opened
    except (tarfile.TarError, EOFError) as error:
        reason = (str(error) or "it is cut off").splitlines()[0].rstrip(":")
        raise ValueError(f"{archive} is damaged: {reason}") from error
