"""Batches of photographs: cut by worker processes, everything else in bulk on the device."""

import math
import mmap
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from residual.data.augment import (
    AspectCrop,
    Cut,
    ScaleCrop,
    TrivialAugment,
    coins,
    coloured,
    colours,
    erased,
    mirrored,
    mixed,
)
from residual.data.batches import ALONE, Drawing, Preprocessing, chosen
from residual.data.crops import Crops
from residual.data.datasets import Photographs
from residual.data.decode import Damaged
from residual.data.progress import Progress, unhurried
from residual.data.rng import below, order
from residual.distributed import World

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


def finishing(
    preprocessing: Preprocessing, how: Drawing, device: torch.device
) -> Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]:
    """What makes of crops, in parts (n, H, W, 3) uint8, and their ids and epochs (B,), the input on
    a device, (B, 3, H, W) float32."""
    if device.type == "cpu":
        line, pages = Line.of(preprocessing, how.size), Pages()
        return lambda parts, ids, epochs: finished_one_by_one(parts, ids, epochs, line, how, pages)

    def together(parts: Sequence[Tensor], ids: Tensor, epochs: Tensor) -> Tensor:
        crops = torch.cat(list(parts)).to(device)
        return finished(crops, ids.to(device), epochs.to(device), preprocessing, how)

    return together


@dataclass(frozen=True)
class Line:
    """Division by 255, mean and deviation as one multiplication and one addition of pixels."""

    # Rows of pixels: of three numbers alone, a processor would take three at a time.
    scale: Tensor  # (1, 3 W)
    offset: Tensor  # (H, 3 W); (1, 3 W) where the mean is one of each channel
    std: Tensor  # (3,) float64

    @classmethod
    def of(cls, preprocessing: Preprocessing, size: int) -> "Line":
        std = preprocessing.std.double()
        scale, offset = (
            each.permute(1, 2, 0).expand(-1, size, 3).reshape(-1, 3 * size).float()
            for each in (1 / 255 / std, -preprocessing.mean.double() / std)
        )
        return cls(scale, offset, std.flatten())


class Pages:
    """Memory for batches. One that nobody holds any more is overwritten by the next: a system takes
    longer to give new memory than all arithmetic on a batch takes, in large pages even."""

    def __init__(self) -> None:
        self.lent: list[tuple[mmap.mmap, weakref.ref[NDArray[np.float32]]]] = []

    def batch(self, *shape: int) -> Tensor:
        """A float32 tensor of anything."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(shape)
        size = 4 * math.prod(shape)
        free = (own for own, user in self.lent if user() is None and len(own) == size)
        memory = next(free, None) or large_pages(size)
        numbers = np.frombuffer(memory, np.float32).reshape(shape)
        self.lent = [each for each in self.lent if each[0] is not memory]
        self.lent.append((memory, weakref.ref(numbers)))
        return torch.from_numpy(numbers)


def large_pages(size: int) -> mmap.mmap:
    """So many bytes of new memory."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a system that has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def finished(
    pixels: Tensor, ids: Tensor, epochs: Tensor, preprocessing: Preprocessing, how: Drawing
) -> Tensor:
    """Crops (B, H, W, 3) uint8 -> input (B, 3, H, W) float32, which lies as channels_last."""
    inputs = pixels.permute(0, 3, 1, 2)
    if how.mirror:
        inputs = mirrored(inputs, ids, epochs, how.seed)
    inputs = inputs.float().div_(255)
    if how.colour:
        inputs = coloured(inputs, ids, epochs, how.seed, how.colour)
    inputs = preprocessing.normalised(inputs)
    return erased(inputs, ids, epochs, how.seed, how.erasing) if how.erasing else inputs


def finished_one_by_one(
    parts: Sequence[Tensor], ids: Tensor, epochs: Tensor, line: Line, how: Drawing, pages: Pages
) -> Tensor:
    """The same of a batch in parts, image by image: a processor's cache holds one image."""
    inputs = pages.batch(len(ids), how.size, how.size, 3)
    turned = coins(ids, epochs, how.seed).tolist()
    shifts = (colours(ids, epochs, how.seed, how.colour) / line.std).float()
    crops = (crop for part in parts for crop in part)  # (H, W, 3) uint8
    rows = shifts.repeat(1, how.size)
    for crop, own, turn, row in zip(crops, inputs, turned, rows, strict=True):
        own.copy_(crop.flip(1) if turn and how.mirror else crop)
        flat = own.view(how.size, -1)
        torch.addcmul(line.offset + row, flat, line.scale, out=flat)
    inputs = inputs.permute(0, 3, 1, 2)
    return erased(inputs, ids, epochs, how.seed, how.erasing) if how.erasing else inputs


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEASURED = 10_000  # photographs, at most, that a mean is taken over
BUDGET = 1e-3  # of a training set may be damaged, where damaged pictures are skipped


@dataclass(frozen=True)
class Place:
    """Where batches are made, by how many workers, and who hears of damaged pictures."""

    device: torch.device
    workers: int = 0
    world: World = ALONE
    heard: Callable[[str, str], None] = lambda path, why: None


def cut_of(how: Drawing) -> Cut:
    """What the workers make of each picture. Raises ValueError for crops of small pictures."""
    match how.crop:
        case "scale":
            cut: Cut = ScaleCrop(how.size, how.scales, how.seed)
        case "aspect":
            cut = AspectCrop(how.size, how.seed)
        case _:
            raise ValueError("photographs are cut by crop=scale or crop=aspect, not by crop=pad")
    return TrivialAugment(cut, how.seed) if how.trivial else cut


def photograph_batches(
    photographs: Photographs,
    preprocessing: Preprocessing,
    how: Drawing,
    place: Place,
    classes: int,
    step: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches from the one after `step` steps on: input (B, 3, H, W) and labels, (B,), or
    (B, classes) where images are mixed. B is this process's part.

    A batch is a function of its arguments and its number alone, on any number of workers and
    processes. Raises Damaged, naming the picture, unless damaged ones are skipped.
    """
    finish = finishing(preprocessing, how, place.device)
    skipping = Skipping(photographs, how.bad_images == "skip", place.heard)

    def plan() -> Iterator[tuple[Tensor, Tensor]]:
        number = step
        while True:
            yield chosen(photographs.labels, how, number, place.world)
            number += 1

    coming = (task for ids, epochs in plan() for task in tasks_of(ids.tolist(), epochs.tolist()))
    done = read(photographs, cut_of(how), coming, place.workers, replaced=skipping.allowed)
    own = how.batch // place.world.size
    while True:
        ids, epochs = chosen(photographs.labels, how, step, place.world)
        parts = []
        for _ in range(math.ceil(own / TASK)):
            part = next(done)
            skipping.hear(part)
            parts.append(part.flat.view(-1, how.size, how.size, 3))
        labels = photographs.labels[ids].to(place.device)
        inputs = finish(parts, ids, epochs)
        if how.mixup or how.cutmix:
            first = (step * place.world.size + place.world.rank) * (own // how.norm_group)
            inputs, labels = mixed_in_groups(inputs, labels, classes, how, first)
        yield inputs, labels
        step += 1


def mixed_in_groups(
    inputs: Tensor, labels: Tensor, classes: int, how: Drawing, first: int
) -> tuple[Tensor, Tensor]:
    """Each norm group mixed by itself; `first` is the number of the first in the whole training."""
    groups = len(inputs) // how.norm_group
    parts = [
        mixed(x, y, classes, seed=how.seed, step=first + g, mixup=how.mixup, cutmix=how.cutmix)
        for g, (x, y) in enumerate(zip(inputs.chunk(groups), labels.chunk(groups), strict=True))
    ]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def refuse_more(lost: int, size: int, last: str) -> None:
    """Raises Damaged where more pictures of a training set were skipped than may be."""
    budget = math.ceil(BUDGET * size)
    if lost > budget:
        raise Damaged(
            f"{lost} of {size:,} training pictures are damaged, more than the {budget} that may be "
            f"skipped; the last is {last}"
        )


class Skipping:
    """What becomes of damaged pictures: the first ends the training, or they are counted."""

    def __init__(
        self, photographs: Photographs, allowed: bool, heard: Callable[[str, str], None]
    ) -> None:
        self.size, self.allowed, self.heard = len(photographs), allowed, heard
        self.paths: set[str] = set()

    def hear(self, done: Done) -> None:
        """Raises Damaged where none may be skipped, or too many were."""
        for path, why in done.damaged:
            if not self.allowed:
                raise Damaged(f"{why}; mend it, or train with --bad-images skip")
            if path in self.paths:
                continue
            self.paths.add(path)
            self.heard(path, why)
            refuse_more(len(self.paths), self.size, path)
        if any(not own for own in done.shapes):
            raise Damaged(f"no whole picture was found in the class of {done.damaged[-1][0]}")


def measured_preprocessing(
    photographs: Photographs,
    kind: str,
    size: int,
    shorter: int,
    workers: int,
    progress: Progress | None = None,
) -> Preprocessing:
    """The mean that is subtracted: of each pixel or of each channel, over centre crops of the
    training set; or ImageNet's channel means and deviations, which most public weights go by."""
    if kind == "imagenet":
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        return Preprocessing(mean, std, (size, size), shorter)
    # Choice: the mean is taken over centre crops of at most 10,000 training pictures, drawn by the
    # keyed order; the paper says only "per-pixel mean subtracted". Damaged pictures are left out.
    ids = order(0, 0, len(photographs))[:MEASURED].tolist()
    total = torch.zeros(size, size, 3, dtype=torch.int64)
    report, seen = unhurried(progress), 0
    tasks, centres = tasks_of(ids, [0] * len(ids)), Crops((size, size), (shorter,))
    for n, done in enumerate(read(photographs, centres, tasks, workers), 1):
        whole = [cut[0] for cut in done.cuts if cut]
        seen += len(whole)
        if whole:
            total += torch.cat(whole).sum(dim=0, dtype=torch.int64)
        report(min(n * TASK, len(ids)), len(ids))
    mean = (total.double() / (255 * max(seen, 1))).permute(2, 0, 1)
    if kind == "channel":
        mean = mean.mean(dim=(1, 2), keepdim=True)
    return Preprocessing(mean.float(), torch.ones(3, 1, 1), (size, size), shorter)


def workers_that_fit(workers: int, bytes_per_task: int, shared: Path = Path("/dev/shm")) -> int:
    """As many workers as the memory that processes share has room for; at least none."""
    if not shared.is_dir():
        return workers
    room = shutil.disk_usage(shared).free
    return min(workers, room // (2 * 4 * bytes_per_task))  # four tasks wait for each, and some air
