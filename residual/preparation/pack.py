"""A folder of pictures packed into shards, by mosaicml-streaming."""

import hashlib
import io
import math
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

from PIL import Image

from residual.data.datasets import Progress, fingerprint, no_progress
from residual.data.decode import (
    DamagedImage,
    conversions,
    damage_context,
    inspect_image,
    open_header,
    open_image,
    read_bytes,
    resize,
    scaled_size,
)
from residual.data.folder import KNOWN_NAMES, QUICK_ABOVE_BYTES
from residual.data.folder_index import (
    SPLITS,
    FolderIndex,
    IndexEntry,
    Split,
    index_folder,
    require_training_set,
)
from residual.data.packed import (
    CONTENTS_FILE,
    COPY_SUFFIX,
    add_restart_markers,
    download_object,
    is_remote,
    require_streaming,
    restart_interval,
)
from residual.data.rng import packing_order
from residual.locks import hold_lock
from residual.storage import FORMAT, display_name, readable_name, write_json

COLUMNS = {"path": "str", "label": "int", "picture": "bytes"}
JPEG_COLUMNS = {"interval": "uint32"}  # MCUs from one restart marker to the next; 0 where unknown
RAW_COLUMNS = {"height": "uint32", "width": "uint32"}
# Choice: what has to be encoded anew becomes JPEG of quality 95 with colours at full resolution:
# on photographs of ImageNet 1.2 grey levels off on average, against 1.6 with colours at half, for a
# quarter more bytes.
QUALITY = {"quality": 95, "subsampling": "4:4:4"}


@dataclass(frozen=True)
class How:
    """How pictures are packed."""

    shorter: int = 480  # pixels of the shorter side, where it is longer
    form: str = "jpeg"  # or raw: decoded
    quality: int = 0  # at which each is encoded anew as JPEG; 0: those that can be are kept
    skip: bool = False  # damaged pictures are packed as they are, and are damaged there, too
    workers: int = 1


@dataclass(frozen=True)
class Ready:
    """A picture to be written."""

    sample: dict[str, Any]
    digest: str
    kept: bool = False
    resized: bool = False
    changed: bool = False  # its pixels are not those of its file
    damage: str = ""


def columns(how: How) -> dict[str, str]:
    """What lies in the shards of each picture, and in which encoding of mosaicml-streaming."""
    return COLUMNS | (RAW_COLUMNS if how.form == "raw" else JPEG_COLUMNS)


def prepare(source: Path, picture: IndexEntry, how: How, hashed: bool) -> Ready:
    """Read a picture, and make of it what is written."""
    path = readable_name(picture.path)  # a column of text
    sample: dict[str, Any] = {"path": path, "label": picture.label, "picture": b""}
    digest = ""
    try:
        raw = read_bytes(source / picture.path)
        sample["picture"] = raw
        digest = hashlib.sha256(raw).hexdigest() if hashed else ""
        if how.form == "jpeg" and not how.quality and stays(raw, how.shorter):
            made, interval = add_restart_markers(raw)
            return Ready(sample | {"picture": made, "interval": interval}, digest, kept=True)
        image = open_image(raw)
    except (DamagedImage, OSError) as error:
        why = str(error).removeprefix("the picture ")
        if isinstance(error, OSError):
            why = f"is damaged: {error.strerror or error}"
        unknown = dict.fromkeys(RAW_COLUMNS if how.form == "raw" else JPEG_COLUMNS, 0)
        return Ready(
            sample | unknown, digest, damage=f"{display_name(source / picture.path)} {why}"
        )
    small = image
    if min(image.size) > how.shorter:
        small = resize(image, scaled_size(image.size, how.shorter)[::-1])
    smaller = small is not image
    if how.form == "raw":
        sample |= {"picture": small.tobytes(), "height": small.height, "width": small.width}
    else:
        sample["picture"], sample["interval"] = encoded(small, how)
    return Ready(sample, digest, resized=smaller, changed=smaller or how.form == "jpeg")


def stays(raw: bytes, shorter: int) -> bool:
    """Whether a file is kept: a JPEG that is neither turned nor made smaller. Raises Damaged."""
    if not raw:
        return False
    with damage_context("the picture"):
        image = open_header(raw)
        if image.format != "JPEG" or min(image.size) > shorter:
            return False
        if {*conversions(image)} - {"grey to RGB"}:
            return False
    inspect_image(raw)
    return True


def encoding(how: How) -> dict[str, Any]:
    """How a picture becomes JPEG; where a quality is asked for, with colours at half resolution."""
    return {"quality": how.quality, "subsampling": "4:2:0"} if how.quality else QUALITY


def encoded(image: Image.Image, how: How) -> tuple[bytes, int]:
    """A picture as JPEG, and how many MCUs lie between its restart markers."""
    asked, file = encoding(how), io.BytesIO()
    mcu = 8 if asked["subsampling"] == "4:4:4" else 16
    interval = restart_interval(math.ceil(image.width / mcu))
    image.save(file, "JPEG", **asked, restart_marker_blocks=interval)
    return file.getvalue(), interval


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
    require_streaming()
    listed = index_folder(source)
    require_training_set(source, listed)
    refuse_full(to)
    remote = to.rstrip("/") if is_remote(to) else ""
    with emptied(to) as folder:
        packing = Packing(source, listed, how, progress or no_progress)
        sets = {
            name: packing.write(name, folder / name, remote and f"{remote}/{name}")
            for name in listed.sets
        }
        write_json(folder / CONTENTS_FILE, packing.contents(sets))  # last: see CONTENTS
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
        download_object(f"{to.rstrip('/')}/{CONTENTS_FILE}", Path(folder) / CONTENTS_FILE)
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
    with hold_lock(place.with_name(f"{place.name}.lock"), to):
        yield from _emptied(place)


def _emptied(place: Path) -> Iterator[Path]:
    """The same, where no other process packs."""
    partial = place.with_name(f"{place.name}.partial")
    if partial.exists():  # a packing was killed; it is begun again
        if {entry.name for entry in partial.iterdir()} - {*SPLITS, CONTENTS_FILE}:
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
    except (DamagedImage, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{to} cannot be written: {reason}") from error


def upload(folder: Path, remote: str) -> None:
    """Bring what is packed to an object store, where the shards lie already."""
    from streaming.base.storage.upload import CloudUploader

    with tempfile.TemporaryDirectory() as passing, writing(remote):
        uploader = CloudUploader.get((passing, remote))
        shutil.copy(folder / CONTENTS_FILE, passing)
        uploader.upload_file(CONTENTS_FILE)


class Packing:
    """One folder being packed, set after set."""

    def __init__(self, source: Path, listed: FolderIndex, how: How, progress: Progress) -> None:
        self.source, self.listed, self.how, self.progress = source, listed, how, progress
        total = sum(picture.bytes for picture in listed)
        self.hashed = total <= QUICK_ABOVE_BYTES
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

    def prepared(self, pictures: list[IndexEntry]) -> Iterator[Ready]:
        """Each picture in its turn, whoever read it; few are ahead. Most of the work is Pillow's,
        so threads do."""

        def one(picture: IndexEntry) -> Ready:
            return prepare(self.source, picture, self.how, self.hashed)

        ahead = AHEAD * self.how.workers
        pool = ThreadPoolExecutor(self.how.workers)
        try:
            for start in range(0, len(pictures), ahead):
                yield from pool.map(one, pictures[start : start + ahead])
        finally:
            pool.shutdown(cancel_futures=True)

    def note(self, picture: IndexEntry, ready: Ready) -> None:
        """Count a picture. Raises Damaged, unless that is to be skipped."""
        if ready.damage and not self.how.skip:
            raise DamagedImage(ready.damage)
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
        name, source = (
            KNOWN_NAMES.get(mark, readable_name(self.source.resolve().name)),
            f"{quick}{mark}",
        )
        self.summary.fingerprint = source
        if self.changes:
            name += COPY_SUFFIX
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
