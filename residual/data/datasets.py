"""A set of small images in memory, and the data that a network is trained and judged on."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from residual.data.decode import Picture, in_part
from residual.data.filenames import Split, decoded, encoded

Damages = tuple[tuple[str, int], ...]  # pictures that cannot be read: (path, label)


class Source(Protocol):
    """Where photographs lie, numbered: a folder, or packed shards."""

    def name(self, i: int) -> str:
        """What a person calls it."""

    def image(self, i: int) -> Picture:
        """Three 8-bit colours, upright. Raises Damaged and OSError."""


class Files:
    """Pictures in a folder, by their paths below it."""

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self.folder = folder
        # One array in place of a million strings: worker processes share it and copy nothing.
        names = [encoded(path) for path in paths]
        self.ends = np.cumsum([len(path) for path in names], dtype=np.int64)
        self.letters = np.frombuffer(b"".join(names), dtype=np.uint8)

    def name(self, i: int) -> str:
        start = self.ends[i - 1] if i else 0
        return decoded(self.letters[start : self.ends[i]].tobytes())

    def image(self, i: int) -> Picture:
        return in_part(f"{self.folder}/{self.name(i)}")  # a Path takes a while to join


@dataclass(frozen=True)
class Photographs:
    """A set of photographs with their classes; what `Images` is for small pictures in memory."""

    source: Source
    places: Tensor  # (N,) int64, which of the source's
    labels: Tensor  # (N,) int64
    damaged: Damages = ()  # of those that were looked at

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: Tensor, damaged: Damages = ()) -> "Photographs":
        """The photographs at these places (n,), and the damaged ones of the same part."""
        return replace(
            self, places=self.places[chosen], labels=self.labels[chosen], damaged=damaged
        )

    def to(self, device: torch.device) -> "Photographs":
        """The same: photographs stay where they are, only their batches travel."""
        return self

    def name(self, i: int) -> str:
        return self.source.name(int(self.places[i]))

    def image(self, i: int) -> Picture:
        """Three 8-bit colours, upright. Raises Damaged and OSError."""
        return self.source.image(int(self.places[i]))


@dataclass(frozen=True)
class Images:
    """Images of one size, decoded, with their classes."""

    pixels: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64
    damaged: Damages = ()  # pictures that could not be read

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: Tensor, damaged: Damages = ()) -> "Images":
        """The images at these places (n,), and the damaged ones of the same part."""
        return replace(
            self, pixels=self.pixels[chosen], labels=self.labels[chosen], damaged=damaged
        )

    def to(self, device: torch.device) -> "Images":
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


Set = Images | Photographs


@dataclass(frozen=True)
class Data:
    """What a network is trained and judged on, under the name that every result carries."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: Set
    test: Set | None = None
    val: Set | None = None  # choices are made here, and only here
    held: Set | None = None  # a part of train in place of val, where the headline is on that
    notices: tuple[str, ...] = ()  # what was done to the pictures, in sentences
    former: str = ""  # the fingerprint that older versions gave it

    def split(self, name: Split) -> Set:
        """One of its sets. Raises ValueError where the data has no such set."""
        chosen: Set | None = getattr(self, name)
        if not chosen:
            there = [s for s in ("train", "val", "test") if getattr(self, s)]
            raise ValueError(f"{self.name} has no {name} set; it has {', '.join(there)}")
        return chosen

    @property
    def choices(self) -> Set | None:
        """The set that choices are made on; never the one of the headline."""
        return self.held if self.test is None else self.val

    @property
    def headline(self) -> Split:
        """The set that the headline number is on: the test set where there is one."""
        return "test" if self.test is not None else "val"


def divided(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Two lists of places (n,), stratified and always the same; the second holds the fraction."""
    from sklearn.model_selection import train_test_split  # takes most of a second to import

    first, second = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=fraction,
        stratify=labels.numpy(),
        random_state=0,
    )
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values


def small(images: Set) -> Images:
    """Images in memory. Raises ValueError for photographs, which are not."""
    if isinstance(images, Photographs):
        raise ValueError("this network takes small pictures, and these are whole photographs")
    return images


def held_out(data: Data, split: str) -> Data:
    """The data under a recipe's `split`: all of the training set, or nine tenths and one for val.

    The paper fixed its schedule on 45,000 of CIFAR-10's training images and 5,000 others (Sec. 4.2)
    and trained on all of them for its test errors, as far as its text goes.
    """
    if split == "full" or (data.val is not None and data.test is not None):
        return data
    # Choice: the 5,000 are drawn once, as many of each class; the paper does not say how. Where the
    # data has only a val set beside the training set, the headline is on that, and no choice.
    fraction = max(0.1, len(data.classes) / len(data.train))
    rest, out = divided(data.train.labels, fraction)
    # Whole pictures are divided without the damaged ones, of which each belongs to one part, too.
    damaged: tuple[list[tuple[str, int]], ...] = ([], [])
    for i, each in enumerate(data.train.damaged):
        damaged[int(fraction * (i + 1)) - int(fraction * i)].append(each)
    train, out_of_it = (
        data.train.part(chosen, tuple(lost))
        for chosen, lost in zip((rest, out), damaged, strict=True)
    )
    if data.val is not None:
        return replace(data, train=train, held=out_of_it)
    return replace(data, train=train, val=out_of_it)


def fingerprint(files: Iterable[tuple[str, str, int, str]]) -> str:
    """The sha256 over sorted (path, class, size in bytes, sha256 of the bytes)."""
    digest = hashlib.sha256()
    for entry in sorted(files):
        digest.update(encoded("\t".join(map(str, entry)) + "\n"))
    return digest.hexdigest()


def fingerprint_in_memory(classes: tuple[str, ...], **sets: Images) -> str:
    """The fingerprint of images that never were files: each is `set/number`, with its pixels."""
    return fingerprint(
        (f"{name}/{i:05d}", classes[label], len(raw), hashlib.sha256(raw).hexdigest())
        for name, images in sets.items()
        for i, (raw, label) in enumerate(
            zip(map(bytes, images.pixels.flatten(1).numpy()), images.labels.tolist(), strict=True)
        )
    )
