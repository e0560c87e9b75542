"""A set of photographs of any size, read when they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from residual.data.decode import Picture, in_part
from residual.data.filenames import decoded, encoded

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
