"""Packs an image folder into shards of mosaicml-streaming."""

import hashlib
import io
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from residual.data.folder import QUICK_ABOVE_BYTES, folder_name
from residual.data.folder_index import (
    SPLITS,
    FolderIndex,
    IndexEntry,
    Split,
    index_folder,
    require_training_set,
)
from residual.data.loader import read_ahead
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
JPEG_COLUMNS = {"interval": "uint32"}  # MCUs between two restart markers; 0 if unknown
RAW_COLUMNS = {"height": "uint32", "width": "uint32"}
# Choice: re-encoded JPEGs have quality 95 and full colour resolution (4:4:4): on photographs of
# ImageNet a mean error of 1.2 grey levels, against 1.6 at half the resolution, for a quarter more
# bytes.
QUALITY = {"quality": 95, "subsampling": "4:4:4"}
AHEAD = 16  # images of each worker that may wait to be written


@dataclass(frozen=True)
class PackOptions:
    """The options of packing."""

    shorter: int = 480  # pixels; a longer shorter side is resized
    form: str = "jpeg"  # or raw: decoded
    quality: int = 0  # of JPEG, if all images are encoded anew; 0 keeps JPEG files
    skip: bool = False  # pack damaged images as they are, instead of stopping
    workers: int = 1

    @property
    def encoding(self) -> dict[str, Any]:
        """Pillow's options for JPEG; colours are at half resolution if a quality is given."""
        return {"quality": self.quality, "subsampling": "4:2:0"} if self.quality else QUALITY

    @property
    def columns(self) -> dict[str, str]:
        """The columns for this form, in mosaicml-streaming's encodings."""
        return RAW_COLUMNS if self.form == "raw" else JPEG_COLUMNS


@dataclass
class PackSummary:
    """The result of packing: the number of images by their treatment."""

    pictures: int = 0
    kept: int = 0  # with the file's pixels, to the bit
    in_part: int = 0  # partially decodable
    resized: int = 0
    changed: int = 0  # with other pixels than the file's
    damaged: list[str] = field(default_factory=list)  # sentences
    bytes_before: int = 0
    bytes_after: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class PackedImage:
    """An image to be written."""

    sample: dict[str, Any]
    digest: str
    kept: bool = False
    resized: bool = False
    changed: bool = False
    damage: str = ""


def pack(
    source: Path, to: str, options: PackOptions, progress: Progress = no_progress
) -> PackSummary:
    """Pack the sets of a folder into another folder or an object store, whole or not at all.

    Raises DamagedImage at the first damaged image, unless it is to be skipped, FileExistsError if
    the place is not empty, and OSError if it cannot be written.
    """
    require_streaming()
    index = index_folder(source)
    require_training_set(source, index)
    require_empty(to)
    remote = to.rstrip("/") if is_remote(to) else ""
    with new_folder(to) as folder:
        packer = Packer(source, index, options, progress)
        sets = {
            name: packer.write(name, folder / name, remote and f"{remote}/{name}")
            for name in index.sets
        }
        write_json(folder / CONTENTS_FILE, packer.contents(sets))  # last: see CONTENTS_FILE
        if remote:
            from streaming.base.storage.upload import CloudUploader

            with tempfile.TemporaryDirectory() as temporary, store_errors(remote):
                uploader = CloudUploader.get((temporary, remote))
                shutil.copy(folder / CONTENTS_FILE, temporary)
                uploader.upload_file(CONTENTS_FILE)
    return packer.summary


def require_empty(to: str) -> None:
    """Raises FileExistsError for a place with content."""
    if not is_remote(to):
        if Path(to).exists() and (not Path(to).is_dir() or any(Path(to).iterdir())):
            raise FileExistsError(f"{to} is there already and not empty; choose another folder")
        return
    with tempfile.TemporaryDirectory() as folder, suppress(FileNotFoundError):
        download_object(f"{to.rstrip('/')}/{CONTENTS_FILE}", Path(folder) / CONTENTS_FILE)
        raise FileExistsError(f"{to} holds packed data already; choose another place")


@contextmanager
def new_folder(to: str) -> Iterator[Path]:
    """An empty folder that is renamed to `to` at the end, or a temporary one for an object store.

    No other process packs to the same place meanwhile.
    """
    if is_remote(to):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    place = Path(to.rstrip("/"))
    unfinished = place.with_name(f"{place.name}.partial")
    place.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(place.with_name(f"{place.name}.lock"), to):
        if unfinished.exists():  # of an interrupted packing
            if {entry.name for entry in unfinished.iterdir()} - {*SPLITS, CONTENTS_FILE}:
                raise FileExistsError(
                    f"{unfinished} is in the way, and not of a packing; pack to another folder"
                )
            shutil.rmtree(unfinished)
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            unfinished.replace(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def store_errors(to: str | Path) -> Iterator[None]:
    """Turn the exceptions of an object store into OSError."""
    try:
        yield
    except (DamagedImage, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{to} cannot be written: {reason}") from error


def prepare(source: Path, entry: IndexEntry, options: PackOptions, hashed: bool) -> PackedImage:
    """Read an image, and make the sample to be written."""
    path = readable_name(entry.path)  # a column of text
    sample: dict[str, Any] = {"path": path, "label": entry.label, "picture": b""}
    digest = ""
    try:
        raw = read_bytes(source / entry.path)
        sample["picture"] = raw
        digest = hashlib.sha256(raw).hexdigest() if hashed else ""
        if options.form == "jpeg" and not options.quality and is_kept(raw, options.shorter):
            marked, interval = add_restart_markers(raw)
            return PackedImage(
                sample | {"picture": marked, "interval": interval}, digest, kept=True
            )
        image = open_image(raw)
    except (DamagedImage, OSError) as error:
        reason = str(error).removeprefix("the picture ")
        if isinstance(error, OSError):
            reason = f"is damaged: {error.strerror or error}"
        damage = f"{display_name(source / entry.path)} {reason}"
        return PackedImage(sample | dict.fromkeys(options.columns, 0), digest, damage=damage)
    resized = min(image.size) > options.shorter
    if resized:
        image = resize(image, scaled_size(image.size, options.shorter)[::-1])
    if options.form == "raw":
        sample |= {"picture": image.tobytes(), "height": image.height, "width": image.width}
        return PackedImage(sample, digest, resized=resized, changed=resized)
    file, mcu = io.BytesIO(), 8 if options.encoding["subsampling"] == "4:4:4" else 16
    interval = restart_interval(math.ceil(image.width / mcu))
    image.save(file, "JPEG", **options.encoding, restart_marker_blocks=interval)
    sample |= {"picture": file.getvalue(), "interval": interval}
    return PackedImage(sample, digest, resized=resized, changed=True)


def is_kept(raw: bytes, shorter: int) -> bool:
    """Whether a file is kept: a JPEG that is not rotated, converted or resized.

    Raises DamagedImage.
    """
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


class Packer:
    """The packing of one folder, set after set."""

    def __init__(
        self, source: Path, index: FolderIndex, options: PackOptions, progress: Progress
    ) -> None:
        self.source, self.index, self.options, self.progress = source, index, options, progress
        self.hashed = index.bytes <= QUICK_ABOVE_BYTES
        self.total = sum(map(len, index.sets.values()))
        self.entries: list[tuple[str, str, int, str]] = []  # for the source's fingerprint
        self.changes: list[tuple[str, str, int, str]] = []  # the changed images, likewise
        self.summary = PackSummary(bytes_before=index.bytes)

    def write(self, name: Split, folder: Path, remote: str) -> dict[str, Any]:
        """Write the shards of a set in random order. Returns its entry in the contents."""
        from streaming.base.format import MDSWriter

        entries = self.index.sets[name]
        shuffled = [entries[i] for i in packing_order(len(entries)).tolist()]
        read = partial(prepare, self.source, options=self.options, hashed=self.hashed)
        workers = self.options.workers  # threads, since most of the work is Pillow's
        images = read_ahead(read, shuffled, workers, AHEAD * workers)
        with store_errors(remote or folder):
            writer = MDSWriter(
                columns=COLUMNS | self.options.columns,
                out=(str(folder), remote) if remote else str(folder),
                hashes=["xxh3_64"],
            )
            try:
                for entry, image in zip(shuffled, images, strict=True):
                    self.add(entry, image())
                    writer.write(image().sample)
                writer.finish()
            except BaseException:
                writer.cancel_future_jobs()
                raise
        for path in folder.glob("*"):  # flushed to the disk before the rename
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self.summary.bytes_after += sum(shard["raw_data"]["bytes"] for shard in writer.shards)
        counts = Counter(entry.label for entry in entries)
        by_label = [counts[label] for label in range(len(self.index.classes))]
        return {"counts": by_label, "shards": writer.shards}

    def add(self, entry: IndexEntry, image: PackedImage) -> None:
        """Count an image. Raises DamagedImage, unless damaged images are skipped."""
        if image.damage and not self.options.skip:
            raise DamagedImage(image.damage)
        label = self.index.classes[entry.label]
        self.entries.append((entry.path, label, entry.bytes, image.digest))
        if image.changed:
            raw = image.sample["picture"]
            digest = hashlib.sha256(raw).hexdigest() if self.hashed else ""
            self.changes.append((entry.path, label, len(raw), digest))
        summary = self.summary
        summary.pictures += 1
        summary.kept += image.kept
        summary.in_part += image.sample.get("interval", 0) > 0
        summary.resized += image.resized
        summary.changed += image.changed
        summary.damaged += [image.damage] if image.damage else []
        self.progress(len(self.entries), self.total)

    def contents(self, sets: dict[Split, dict[str, Any]]) -> dict[str, Any]:
        """The contents file. A copy with all pixels of its source has its name and fingerprint."""
        mark = source = fingerprint(self.entries, not self.hashed)
        name = folder_name(self.source, source)
        if self.changes:
            name += COPY_SUFFIX
            mark = fingerprint([(source, "", 0, ""), *self.changes], not self.hashed)
        self.summary.fingerprint = mark
        counts = ("fingerprint", "changed", "pictures", "kept", "in_part", "resized")
        return {
            "format": FORMAT,
            "name": name,
            "source": source,  # its fingerprint
            "classes": self.index.classes,
            "as": self.options.form,
            "quality": self.options.encoding if self.options.form == "jpeg" else None,
            "shorter_side": self.options.shorter,
            "damaged": sorted(self.summary.damaged),
            "sets": sets,
        } | {name: getattr(self.summary, name) for name in counts}
