"""Many pictures decoded at once into memory."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residual.data.decode import Damaged, pixels, resized, seen
from residual.data.images import Images
from residual.data.listing import Picture

CHUNK = 64  # pictures that a worker takes at a time


@dataclass(frozen=True)
class Read:
    """What was found in one file."""

    pixels: Tensor | None  # (3, H, W) uint8; None of a damaged picture
    digest: str  # sha256 of the file, or ""
    resized: bool


def read(
    path: Path,
    pictures: Sequence[Picture],
    size: int,
    workers: int,
    hashed: bool,
    progress: Callable[[int], None],
) -> tuple[Images, list[str], int]:
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
    return Images(room[: len(whole)], labels[whole], tuple(damaged)), hashes, others


def in_order(
    path: Path, pictures: Sequence[Picture], size: int, workers: int, hashed: bool
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
        image = seen(raw)
    except Damaged:
        return Read(None, digest, resized=False)
    fitted = resized(image, (size, size))
    return Read(pixels(fitted), digest, resized=fitted is not image)
