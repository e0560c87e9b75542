"""A set of small images in memory, and the data that a network is trained and judged on."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from residual.data.decode import Picture, open_picture
from residual.data.folder_index import Split
from residual.storage import decode_name, encode_name

Progress = Callable[[int, int], None]  # called with (done, total)
DamagedFiles = tuple[tuple[str, int], ...]  # pictures that cannot be read: (path, label)


def no_progress(done: int, total: int) -> None:
    """The default progress callback: does nothing."""


class ImageSource(Protocol):
    """Where photographs lie, numbered: a folder, or packed shards."""

    def name(self, i: int) -> str:
        """What a person calls it."""

    def image(self, i: int) -> Picture:
        """Three 8-bit colours, upright. Raises Damaged and OSError."""


class FolderSource:
    """Pictures in a folder, by their paths below it."""

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self.folder = folder
        # One array in place of a million strings: worker processes share it and copy nothing.
        names = [encode_name(path) for path in paths]
        self.ends = np.cumsum([len(path) for path in names], dtype=np.int64)
        self.letters = np.frombuffer(b"".join(names), dtype=np.uint8)

    def name(self, i: int) -> str:
        start = self.ends[i - 1] if i else 0
        return decode_name(self.letters[start : self.ends[i]].tobytes())

    def image(self, i: int) -> Picture:
        return open_picture(f"{self.folder}/{self.name(i)}")  # a Path takes a while to join


@dataclass(frozen=True)
class ImageFiles:
    """A set of photographs with their classes; what `Images` is for small pictures in memory."""

    source: ImageSource
    indices: Tensor  # (N,) int64, which of the source's
    labels: Tensor  # (N,) int64
    damaged: DamagedFiles = ()  # of those that were looked at

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Tensor, damaged: DamagedFiles = ()) -> "ImageFiles":
        """The photographs at these indices (n,), and the damaged ones of the same part."""
        return replace(
            self, indices=self.indices[chosen], labels=self.labels[chosen], damaged=damaged
        )

    def to(self, device: torch.device) -> "ImageFiles":
        """The same: photographs stay where they are, only their batches travel."""
        return self

    def name(self, i: int) -> str:
        return self.source.name(int(self.indices[i]))

    def image(self, i: int) -> Picture:
        """Three 8-bit colours, upright. Raises Damaged and OSError."""
        return self.source.image(int(self.indices[i]))


@dataclass(frozen=True)
class ImageTensors:
    """Images of one size, decoded, with their classes."""

    pixels: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64
    damaged: DamagedFiles = ()  # pictures that could not be read

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Tensor, damaged: DamagedFiles = ()) -> "ImageTensors":
        """The images at these indices (n,), and the damaged ones of the same part."""
        return replace(
            self, pixels=self.pixels[chosen], labels=self.labels[chosen], damaged=damaged
        )

    def to(self, device: torch.device) -> "ImageTensors":
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


ImageSet = ImageTensors | ImageFiles


@dataclass(frozen=True)
class Data:
    """What a network is trained and judged on, under the name that every result carries."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet | None = None
    val: ImageSet | None = None  # choices are made here, and only here
    holdout: ImageSet | None = None  # a part of train; the headline is on val
    notices: tuple[str, ...] = ()  # what was done to the pictures, in sentences
    former: str = ""  # the fingerprint that older versions gave it

    def split(self, name: Split) -> ImageSet:
        """One of its sets. Raises ValueError where the data has no such set."""
        chosen: ImageSet | None = getattr(self, name)
        if not chosen:
            there = [s for s in ("train", "val", "test") if getattr(self, s)]
            raise ValueError(f"{self.name} has no {name} set; it has {', '.join(there)}")
        return chosen

    @property
    def selection_set(self) -> ImageSet | None:
        """The set that choices are made on; never the one of the headline."""
        return self.holdout if self.test is None else self.val

    @property
    def headline(self) -> Split:
        """The set that the headline number is on: the test set where there is one."""
        return "test" if self.test is not None else "val"


def stratified_split(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Two lists of indices (n,), stratified and always the same; the second holds the fraction."""
    from sklearn.model_selection import train_test_split  # takes most of a second to import

    first, second = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=fraction,
        stratify=labels.numpy(),
        random_state=0,
    )
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values


def require_tensors(images: ImageSet) -> ImageTensors:
    """Images in memory. Raises ValueError for photographs, which are not."""
    if isinstance(images, ImageFiles):
        raise ValueError("this network takes small pictures, and these are whole photographs")
    return images


def apply_split(data: Data, split: str) -> Data:
    """The data under a recipe's `split`: all of the training set, or nine tenths and one for val.

    The paper fixed its schedule on 45,000 of CIFAR-10's training images and 5,000 others (Sec. 4.2)
    and trained on all of them for its test errors, as far as its text goes.
    """
    if split == "full" or (data.val is not None and data.test is not None):
        return data
    # Choice: the 5,000 are drawn once, as many of each class; the paper does not say how. Where the
    # data has only a val set beside the training set, the headline is on that, and no choice.
    fraction = max(0.1, len(data.classes) / len(data.train))
    rest, out = stratified_split(data.train.labels, fraction)
    # Whole pictures are divided without the damaged ones, of which each belongs to one part, too.
    damaged: tuple[list[tuple[str, int]], ...] = ([], [])
    for i, each in enumerate(data.train.damaged):
        damaged[int(fraction * (i + 1)) - int(fraction * i)].append(each)
    train, out_of_it = (
        data.train.subset(chosen, tuple(lost))
        for chosen, lost in zip((rest, out), damaged, strict=True)
    )
    if data.val is not None:
        return replace(data, train=train, holdout=out_of_it)
    return replace(data, train=train, val=out_of_it)


def fingerprint(files: Iterable[tuple[str, str, int, str]]) -> str:
    """The sha256 over sorted (path, class, size in bytes, sha256 of the bytes)."""
    digest = hashlib.sha256()
    for entry in sorted(files):
        digest.update(encode_name("\t".join(map(str, entry)) + "\n"))
    return digest.hexdigest()


def tensor_fingerprint(classes: tuple[str, ...], **sets: ImageTensors) -> str:
    """The fingerprint of images that never were files: each is `set/number`, with its pixels."""
    return fingerprint(
        (f"{name}/{i:05d}", classes[label], len(raw), hashlib.sha256(raw).hexdigest())
        for name, images in sets.items()
        for i, (raw, label) in enumerate(
            zip(map(bytes, images.pixels.flatten(1).numpy()), images.labels.tolist(), strict=True)
        )
    )
