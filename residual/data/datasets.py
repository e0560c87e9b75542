"""Data sets: images in memory or in files, with their classes, splits and fingerprint."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from residual.data.decode import Picture, open_picture
from residual.data.folder_index import SPLITS, Split
from residual.storage import decode_name, encode_name

Progress = Callable[[int, int], None]  # called with (done, total)
DamagedFiles = tuple[tuple[str, int], ...]  # (path, label) of images that cannot be read


def no_progress(done: int, total: int) -> None:
    """The default progress callback: does nothing."""


class ImageSource(Protocol):
    """Numbered images in a folder or in packed shards."""

    def name(self, i: int) -> str:
        """The image's path, for messages."""

    def image(self, i: int) -> Picture:
        """The image in 8-bit RGB, upright. Raises DamagedImage and OSError."""


class FolderSource:
    """Images in a folder, by their paths below it."""

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
        return open_picture(f"{self.folder}/{self.name(i)}")  # joining a Path takes longer


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their classes, read when they are needed."""

    source: ImageSource
    indices: Tensor  # (N,) int64, in the source
    labels: Tensor  # (N,) int64
    damaged: DamagedFiles = ()

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Tensor, damaged: DamagedFiles = ()) -> "ImageFiles":
        """The images at these places (n,), and the damaged ones of the same part."""
        indices, labels = self.indices[chosen], self.labels[chosen]
        return replace(self, indices=indices, labels=labels, damaged=damaged)

    def name(self, i: int) -> str:
        return self.source.name(int(self.indices[i]))

    def image(self, i: int) -> Picture:
        return self.source.image(int(self.indices[i]))


@dataclass(frozen=True)
class ImageTensors:
    """Decoded images of one size in memory, with their classes."""

    pixels: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64
    damaged: DamagedFiles = ()

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Tensor, damaged: DamagedFiles = ()) -> "ImageTensors":
        """The images at these places (n,), and the damaged ones of the same part."""
        pixels, labels = self.pixels[chosen], self.labels[chosen]
        return replace(self, pixels=pixels, labels=labels, damaged=damaged)

    def to(self, device: torch.device) -> "ImageTensors":
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


ImageSet = ImageTensors | ImageFiles


@dataclass(frozen=True)
class Data:
    """The splits of a data set, with the name and the fingerprint that every result carries."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet | None = None
    val: ImageSet | None = None  # for choices such as early stopping
    holdout: ImageSet | None = None  # a part of train for choices, if the headline is on val
    notices: tuple[str, ...] = ()  # what was done to the images, in sentences
    former: str = ""  # the fingerprint that older versions computed

    def split(self, name: Split) -> ImageSet:
        """A split by name. Raises ValueError if the data has no such split."""
        chosen: ImageSet | None = getattr(self, name)
        if not chosen:
            names = ", ".join(split for split in SPLITS if getattr(self, split))
            raise ValueError(f"{self.name} has no {name} set; it has {names}")
        return chosen

    @property
    def selection_set(self) -> ImageSet | None:
        """The images that choices are made on; never those of the headline."""
        return self.holdout if self.test is None else self.val

    @property
    def headline(self) -> Split:
        """The split of the headline number: the test set if there is one."""
        return "test" if self.test is not None else "val"


def require_tensors(images: ImageSet) -> ImageTensors:
    """Images in memory. Raises ValueError for image files."""
    if isinstance(images, ImageFiles):
        raise ValueError("this network takes small pictures, and these are whole photographs")
    return images


def stratified_split(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Two sorted lists of places (n,), always the same; the second is the fraction."""
    from sklearn.model_selection import train_test_split  # takes most of a second to import

    first, second = train_test_split(
        np.arange(len(labels)), test_size=fraction, stratify=labels.numpy(), random_state=0
    )
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values


def apply_split(data: Data, split: str) -> Data:
    """The data under a recipe's `split`: the full training set, or nine tenths and one for val.

    The paper fixed its schedule on 45,000 of CIFAR-10's training images and 5,000 others (Sec. 4.2)
    and trained on all of them for its test errors, as far as its text goes.
    """
    if split == "full" or (data.val is not None and data.test is not None):
        return data
    # Choice: the 5,000 validation images are drawn once and stratified; the paper does not say how.
    # If the data has a val set but no test set, the reported error is on the val set.
    fraction = max(0.1, len(data.classes) / len(data.train))
    rest, out = stratified_split(data.train.labels, fraction)
    # The damaged images of the training set are divided by the same fraction.
    damaged: tuple[list[tuple[str, int]], ...] = ([], [])
    for i, file in enumerate(data.train.damaged):
        damaged[int(fraction * (i + 1)) - int(fraction * i)].append(file)
    train = data.train.subset(rest, tuple(damaged[0]))
    holdout = data.train.subset(out, tuple(damaged[1]))
    if data.val is not None:
        return replace(data, train=train, holdout=holdout)
    return replace(data, train=train, val=holdout)


def fingerprint(files: Iterable[tuple[str, str, int, str]], quick: bool = False) -> str:
    """The sha256 over sorted (path, class, size in bytes, sha256 of the bytes); the last is empty
    in a quick one, which is marked."""
    digest = hashlib.sha256()
    for entry in sorted(files):
        digest.update(encode_name("\t".join(map(str, entry)) + "\n"))
    return "quick-" * quick + digest.hexdigest()


def tensor_fingerprint(classes: tuple[str, ...], **sets: ImageTensors) -> str:
    """The fingerprint of images that never were files: each is `set/number`, with its pixels."""
    return fingerprint(
        (f"{name}/{i:05d}", classes[label], len(raw), hashlib.sha256(raw).hexdigest())
        for name, images in sets.items()
        for i, (raw, label) in enumerate(
            zip(map(bytes, images.pixels.flatten(1).numpy()), images.labels.tolist(), strict=True)
        )
    )
