"""A set of small images in memory, and the data that a network is trained and judged on."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Images:
    """Images of one size, decoded, with their classes."""

    pixels: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64
    damaged: tuple[tuple[str, int], ...] = ()  # pictures that could not be read: (path, label)

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: Tensor) -> "Images":
        """The images at these places (n,), with every damaged one."""
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device) -> "Images":
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """What a network is trained and judged on, under the name that every result carries."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: Images
    test: Images | None = None
    val: Images | None = None  # choices are made here, and only here
    notices: tuple[str, ...] = ()  # what was done to the pictures, in sentences

    def split(self, name: Split) -> Images:
        """One of its sets. Raises ValueError where the data has no such set."""
        chosen: Images | None = getattr(self, name)
        if chosen is None:
            there = [s for s in ("train", "val", "test") if getattr(self, s) is not None]
            raise ValueError(f"{self.name} has no {name} set; it has {', '.join(there)}")
        return chosen

    @property
    def headline(self) -> Split:
        """The set that the headline number is on: the test set where there is one."""
        return "test" if self.test is not None else "val"


def divided(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Two lists of places (n,), stratified and always the same; the second holds the fraction."""
    first, second = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=fraction,
        stratify=labels.numpy(),
        random_state=0,
    )
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values


def held_out(data: Data, split: str) -> Data:
    """The data under a recipe's `split`: all of the training set, or nine tenths and one for val.

    The paper fixed its schedule on 45,000 of CIFAR-10's training images and 5,000 others (Sec. 4.2)
    and trained on all of them for its test errors, as far as its text goes.
    """
    if split == "full":
        return data
    if data.val is not None:
        raise ValueError(f"{data.name} has a val set of its own; split 45k5k would hide it")
    # Choice: the 5,000 are drawn once, as many of each class; the paper does not say how.
    rest, out = divided(data.train.labels, 0.1)
    return replace(data, train=data.train.part(rest), val=data.train.part(out))


def fingerprint(files: Iterable[tuple[str, str, int, str]]) -> str:
    """The sha256 over sorted (path, class, size in bytes, sha256 of the bytes)."""
    digest = hashlib.sha256()
    for entry in sorted(files):
        digest.update(("\t".join(map(str, entry)) + "\n").encode())
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
