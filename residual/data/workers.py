"""Photographs decoded and cut by worker processes, in an order that they do not change."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from residual.data.crops import Cut
from residual.data.decode import Damaged
from residual.data.draws import below
from residual.data.photographs import Photographs

REPLACEMENT = 1_000  # the first draw of those that replace a damaged picture
TASK = 16  # pictures that a worker takes at a time


@dataclass(frozen=True)
class Task:
    """Pictures to read, and the epoch that each is in."""

    ids: Sequence[int]
    epochs: Sequence[int]


@dataclass(frozen=True)
class Done:
    """What came of a task. All pixels travel between processes as one tensor."""

    ids: Sequence[int]
    flat: Tensor  # (pixels,) uint8
    shapes: list[list[tuple[int, ...]]]  # of each picture's arrays; none where it is damaged
    damaged: list[tuple[str, str]]  # (path, why)

    @property
    def cuts(self) -> list[list[Tensor]]:
        """For each picture its arrays (views, height, width, 3) uint8; none where it is damaged."""
        sizes = [math.prod(shape) for own in self.shapes for shape in own]
        parts = iter(torch.split(self.flat, sizes))
        return [[next(parts).view(shape) for shape in own] for own in self.shapes]


class Reading(Dataset[Done]):
    """Lives in each worker. A damaged picture is replaced inside its class, or left out."""

    def __init__(self, photographs: Photographs, cut: Cut, replaced: bool) -> None:
        self.photographs, self.cut, self.replaced = photographs, cut, replaced

    def __getitem__(self, task: Task) -> Done:
        damaged: list[tuple[str, str]] = []
        cuts = [
            self._one(image_id, epoch, damaged)
            for image_id, epoch in zip(task.ids, task.epochs, strict=True)
        ]
        flat = [part for own in cuts for part in own]
        pixels = torch.from_numpy(np.concatenate(flat, None)) if flat else torch.empty(0).byte()
        return Done(task.ids, pixels, [[part.shape for part in own] for own in cuts], damaged)

    def _one(
        self, image_id: int, epoch: int, damaged: list[tuple[str, str]]
    ) -> list[NDArray[np.uint8]]:
        for each in self._candidates(image_id, epoch):
            try:
                return self.cut(self.photographs.image(each), image_id, epoch)
            except (Damaged, OSError) as error:
                damaged.append((self.photographs.name(each), str(error)))
        return []

    def _candidates(self, image_id: int, epoch: int) -> Iterator[int]:
        yield image_id
        if self.replaced:
            labels = self.photographs.labels
            own = torch.nonzero(labels == labels[image_id]).flatten()
            for attempt in range(min(10, len(own))):
                yield int(own[int(below(len(own), image_id, epoch, REPLACEMENT + attempt))])


def as_it_is(done: Any) -> Any:
    return done


def read(
    photographs: Photographs,
    cut: Cut,
    tasks: Iterable[Task],
    workers: int,
    replaced: bool = False,
) -> Iterator[Done]:
    """Each task in its turn, whoever did it; with no workers, in this process."""
    with warnings.catch_warnings(action="ignore"):  # that there are fewer cores than workers
        loader = DataLoader(
            Reading(photographs, cut, replaced),
            batch_size=None,
            sampler=tasks,
            num_workers=workers,
            collate_fn=as_it_is,
            prefetch_factor=4 if workers else None,
        )
        coming = iter(loader)
    yield from coming


def tasks_of(ids: Sequence[int], epochs: Sequence[int], size: int = TASK) -> Iterator[Task]:
    """A list of pictures as tasks."""
    for start in range(0, len(ids), size):
        yield Task(ids[start : start + size], epochs[start : start + size])
