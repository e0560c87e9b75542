"""A folder of pictures packed into shards, by mosaicml-streaming."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from residual.data.decode import Damaged
from residual.data.draws import packing_order
from residual.data.filenames import SETS, Split, readable
from residual.data.folder import KNOWN, QUICK_ABOVE
from residual.data.images import fingerprint
from residual.data.listing import Listing, Picture, listing, refuse_untaught
from residual.data.packable import How, Ready, columns, encoding, prepare
from residual.data.packed import CONTENTS, COPY, fetch, is_remote, need_streaming
from residual.data.progress import Progress, unhurried
from residual.files import FORMAT, write_json
from residual.locks import locked

AHEAD = 16  # pictures of each worker that may wait to be written


@dataclass
class Summary:
    """What was packed."""

    pictures: int = 0
    kept: int = 0  # whose pixels are their files', to the bit
    in_part: int = 0  # of which a part can be decoded alone
    resized: int = 0
    changed: int = 0  # whose pixels are not their files'
    damaged: list[str] = field(default_factory=list)  # sentences
    bytes_before: int = 0
    bytes_after: int = 0
    fingerprint: str = ""


def pack(source: Path, to: str, how: How, progress: Progress | None = None) -> Summary:
    """Pack the sets of a folder into another, or into an object store; whole, or not at all.

    Raises Damaged at the first damaged picture, unless it is to be skipped, FileExistsError where
    something lies there, and OSError where nothing can be written.
    """
    need_streaming()
    listed = listing(source)
    refuse_untaught(source, listed)
    refuse_full(to)
    remote = to.rstrip("/") if is_remote(to) else ""
    with emptied(to) as folder:
        packing = Packing(source, listed, how, unhurried(progress))
        sets = {
            name: packing.write(name, folder / name, remote and f"{remote}/{name}")
            for name in listed.sets
        }
        write_json(folder / CONTENTS, packing.contents(sets))  # last: see CONTENTS
        if remote:
            upload(folder, remote)
    return packing.summary


def refuse_full(to: str) -> None:
    """Raises FileExistsError where something lies already."""
    if not is_remote(to):
        if Path(to).exists() and (not Path(to).is_dir() or any(Path(to).iterdir())):
            raise FileExistsError(f"{to} is there already and not empty; choose another folder")
        return
    with tempfile.TemporaryDirectory() as folder, suppress(FileNotFoundError):
        fetch(f"{to.rstrip('/')}/{CONTENTS}", Path(folder) / CONTENTS)
        raise FileExistsError(f"{to} holds packed data already; choose another place")


@contextmanager
def emptied(to: str) -> Iterator[Path]:
    """An empty folder that becomes `to` when all went well; for an object store a passing one."""
    if is_remote(to):
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)
        return
    place = Path(to.rstrip("/"))
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.with_name(f"{place.name}.lock"), to):
        yield from _emptied(place)


def _emptied(place: Path) -> Iterator[Path]:
    """The same, where no other process packs."""
    partial = place.with_name(f"{place.name}.partial")
    if partial.exists():  # a packing was killed; it is begun again
        if {entry.name for entry in partial.iterdir()} - {*SETS, CONTENTS}:
            raise FileExistsError(
                f"{partial} is in the way, and none of our making; pack to another folder"
            )
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def writing(to: str | Path) -> Iterator[None]:
    """Around what a store does: each has errors of its own, which become OSError."""
    try:
        yield
    except (Damaged, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{to} cannot be written: {reason}") from error


def upload(folder: Path, remote: str) -> None:
    """Bring what is packed to an object store, where the shards lie already."""
    from streaming.base.storage.upload import CloudUploader

    with tempfile.TemporaryDirectory() as passing, writing(remote):
        uploader = CloudUploader.get((passing, remote))
        shutil.copy(folder / CONTENTS, passing)
        uploader.upload_file(CONTENTS)


class Packing:
    """One folder being packed, set after set."""

    def __init__(self, source: Path, listed: Listing, how: How, progress: Progress) -> None:
        self.source, self.listed, self.how, self.progress = source, listed, how, progress
        total = sum(picture.bytes for picture in listed)
        self.hashed = total <= QUICK_ABOVE
        self.total = sum(map(len, listed.sets.values()))
        self.entries: list[tuple[str, str, int, str]] = []  # of which the fingerprint is made
        self.changes: list[tuple[str, str, int, str]] = []  # the same of what was packed changed
        self.summary = Summary(bytes_before=total)

    def write(self, name: Split, folder: Path, remote: str) -> dict[str, Any]:
        """Write the shards of a set, mixed; what is to be known of them."""
        from streaming.base.format import MDSWriter

        pictures = self.listed.sets[name]
        mixed = [pictures[i] for i in packing_order(len(pictures)).tolist()]
        with writing(remote or folder):
            writer = MDSWriter(
                columns=columns(self.how),
                out=(str(folder), remote) if remote else str(folder),
                hashes=["xxh3_64"],
            )
            try:
                for picture, ready in zip(mixed, self.prepared(mixed), strict=True):
                    self.note(picture, ready)
                    writer.write(ready.sample)
                writer.finish()
            except BaseException:
                writer.cancel_future_jobs()
                raise
        for file in folder.glob("*"):  # the disk has them before the rename
            with file.open("rb") as written:
                os.fsync(written.fileno())
        self.summary.bytes_after += sum(shard["raw_data"]["bytes"] for shard in writer.shards)
        labels = Counter(picture.label for picture in pictures)
        counts = [labels[label] for label in range(len(self.listed.classes))]
        return {"counts": counts, "shards": writer.shards}

    def prepared(self, pictures: list[Picture]) -> Iterator[Ready]:
        """Each picture in its turn, whoever read it; few are ahead. Most of the work is Pillow's,
        so threads do."""

        def one(picture: Picture) -> Ready:
            return prepare(self.source, picture, self.how, self.hashed)

        ahead = AHEAD * self.how.workers
        pool = ThreadPoolExecutor(self.how.workers)
        try:
            for start in range(0, len(pictures), ahead):
                yield from pool.map(one, pictures[start : start + ahead])
        finally:
            pool.shutdown(cancel_futures=True)

    def note(self, picture: Picture, ready: Ready) -> None:
        """Count a picture. Raises Damaged, unless that is to be skipped."""
        if ready.damage and not self.how.skip:
            raise Damaged(ready.damage)
        label = self.listed.classes[picture.label]
        self.entries.append((picture.path, label, picture.bytes, ready.digest))
        if ready.changed:
            made = ready.sample["picture"]
            digest = hashlib.sha256(made).hexdigest() if self.hashed else ""
            self.changes.append((picture.path, label, len(made), digest))
        summary = self.summary
        summary.pictures += 1
        summary.kept += ready.kept
        summary.in_part += ready.sample.get("interval", 0) > 0
        summary.resized += ready.resized
        summary.changed += ready.changed
        summary.damaged += [ready.damage] if ready.damage else []
        self.progress(len(self.entries), self.total)

    def contents(self, sets: dict[Split, dict[str, Any]]) -> dict[str, Any]:
        """What lies there. Name and fingerprint are the source's where all pixels are, and else of
        this copy alone."""
        mark, quick = fingerprint(self.entries), "" if self.hashed else "quick-"
        name, source = KNOWN.get(mark, readable(self.source.resolve().name)), f"{quick}{mark}"
        self.summary.fingerprint = source
        if self.changes:
            name += COPY
            self.summary.fingerprint = f"{quick}{fingerprint([(source, '', 0, ''), *self.changes])}"
        return {
            "format": FORMAT,
            "name": name,
            "fingerprint": self.summary.fingerprint,
            "source": source,  # its fingerprint
            "changed": self.summary.changed,
            "classes": self.listed.classes,
            "as": self.how.form,
            "quality": encoding(self.how) if self.how.form == "jpeg" else None,
            "shorter_side": self.how.shorter,
            "pictures": self.summary.pictures,
            "kept": self.summary.kept,
            "in_part": self.summary.in_part,
            "resized": self.summary.resized,
            "damaged": sorted(self.summary.damaged),
            "sets": sets,
        }
