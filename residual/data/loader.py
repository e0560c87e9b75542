"""Batches of photographs: cut by worker processes, everything else in bulk on the device."""

import math
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from residual.data.augment import (
    AspectCrop,
    Crop,
    ScaleCrop,
    TrivialAugment,
    color_offsets,
    flip_mask,
    mix_batch,
    pad_crop_flip,
    random_erase,
    random_flip,
    shift_colors,
)
from residual.data.datasets import ImageFiles, ImageTensors, Progress, no_progress
from residual.data.decode import DamagedImage
from residual.data.preprocessing import Preprocessing
from residual.data.rng import permutation, randint
from residual.data.sampler import DataConfig, batch_indices
from residual.data.test_crops import CenterCornerCrops
from residual.distributed import SINGLE_PROCESS, World

REPLACEMENT = 1_000  # the first draw of those that replace a damaged picture
IMAGES_PER_TASK = 16  # pictures that a worker takes at a time


@dataclass(frozen=True)
class ReadTask:
    """Pictures to read, and the epoch that each is in."""

    ids: Sequence[int]
    epochs: Sequence[int]


@dataclass(frozen=True)
class ReadResult:
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


class CropDataset(Dataset[ReadResult]):
    """Lives in each worker. A damaged picture is replaced inside its class, or left out."""

    def __init__(self, photographs: ImageFiles, cut: Crop, replaced: bool) -> None:
        self.photographs, self.cut, self.replaced = photographs, cut, replaced

    def __getitem__(self, task: ReadTask) -> ReadResult:
        damaged: list[tuple[str, str]] = []
        cuts = [
            self._one(image_id, epoch, damaged)
            for image_id, epoch in zip(task.ids, task.epochs, strict=True)
        ]
        flat = [part for own in cuts for part in own]
        pixels = torch.from_numpy(np.concatenate(flat, None)) if flat else torch.empty(0).byte()
        return ReadResult(task.ids, pixels, [[part.shape for part in own] for own in cuts], damaged)

    def _one(
        self, image_id: int, epoch: int, damaged: list[tuple[str, str]]
    ) -> list[NDArray[np.uint8]]:
        for each in self._candidates(image_id, epoch):
            try:
                return self.cut(self.photographs.image(each), image_id, epoch)
            except (DamagedImage, OSError) as error:
                damaged.append((self.photographs.name(each), str(error)))
        return []

    def _candidates(self, image_id: int, epoch: int) -> Iterator[int]:
        yield image_id
        if self.replaced:
            labels = self.photographs.labels
            own = torch.nonzero(labels == labels[image_id]).flatten()
            for attempt in range(min(10, len(own))):
                yield int(own[int(randint(len(own), image_id, epoch, REPLACEMENT + attempt))])


def read_crops(
    photographs: ImageFiles,
    cut: Crop,
    tasks: Iterable[ReadTask],
    workers: int,
    replaced: bool = False,
) -> Iterator[ReadResult]:
    """Each task in its turn, whoever did it; with no workers, in this process."""
    with warnings.catch_warnings(action="ignore"):  # that there are fewer cores than workers
        loader = DataLoader(
            CropDataset(photographs, cut, replaced),
            batch_size=None,
            sampler=tasks,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        coming = iter(loader)
    yield from coming


def make_tasks(
    ids: Sequence[int], epochs: Sequence[int], size: int = IMAGES_PER_TASK
) -> Iterator[ReadTask]:
    """A list of pictures as tasks."""
    for start in range(0, len(ids), size):
        yield ReadTask(ids[start : start + size], epochs[start : start + size])


def make_collate(
    preprocessing: Preprocessing, how: DataConfig, device: torch.device
) -> Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]:
    """What makes of crops, in parts (n, H, W, 3) uint8, and their ids and epochs (B,), the input on
    a device, (B, 3, H, W) float32."""
    if device.type == "cpu":
        line, pages = PixelScaling.of(preprocessing, how.size), BatchMemory()
        return lambda parts, ids, epochs: collate_on_cpu(parts, ids, epochs, line, how, pages)

    def together(parts: Sequence[Tensor], ids: Tensor, epochs: Tensor) -> Tensor:
        crops = torch.cat(list(parts)).to(device)
        return collate_on_device(crops, ids.to(device), epochs.to(device), preprocessing, how)

    return together


@dataclass(frozen=True)
class PixelScaling:
    """Division by 255, mean and deviation as one multiplication and one addition of pixels."""

    # Rows of pixels: of three numbers alone, a processor would take three at a time.
    scale: Tensor  # (1, 3 W)
    offset: Tensor  # (H, 3 W); (1, 3 W) where the mean is one of each channel
    std: Tensor  # (3,) float64

    @classmethod
    def of(cls, preprocessing: Preprocessing, size: int) -> "PixelScaling":
        std = preprocessing.std.double()
        scale, offset = (
            each.permute(1, 2, 0).expand(-1, size, 3).reshape(-1, 3 * size).float()
            for each in (1 / 255 / std, -preprocessing.mean.double() / std)
        )
        return cls(scale, offset, std.flatten())


class BatchMemory:
    """Reuses the memory of batches that nobody refers to any more: the system takes longer to map
    new memory than the arithmetic on a batch takes."""

    def __init__(self) -> None:
        self.lent: list[tuple[NDArray[np.float32], weakref.ref[NDArray[np.float32]]]] = []

    def batch(self, *shape: int) -> Tensor:
        """A float32 tensor with arbitrary contents."""
        free = (own for own, user in self.lent if user() is None and own.shape == shape)
        if (memory := next(free, None)) is None:
            memory = np.empty(shape, np.float32)
        view = memory.view()
        self.lent = [entry for entry in self.lent if entry[0] is not memory]
        self.lent.append((memory, weakref.ref(view)))
        return torch.from_numpy(view)


def collate_on_device(
    pixels: Tensor, ids: Tensor, epochs: Tensor, preprocessing: Preprocessing, how: DataConfig
) -> Tensor:
    """Crops (B, H, W, 3) uint8 -> input (B, 3, H, W) float32, which lies as channels_last."""
    inputs = pixels.permute(0, 3, 1, 2)
    if how.mirror:
        inputs = random_flip(inputs, ids, epochs, how.seed)
    inputs = inputs.float().div_(255)
    if how.colour:
        inputs = shift_colors(inputs, ids, epochs, how.seed, how.colour)
    inputs = preprocessing.normalize(inputs)
    return random_erase(inputs, ids, epochs, how.seed, how.erasing) if how.erasing else inputs


def collate_on_cpu(
    parts: Sequence[Tensor],
    ids: Tensor,
    epochs: Tensor,
    line: PixelScaling,
    how: DataConfig,
    pages: BatchMemory,
) -> Tensor:
    """The same of a batch in parts, image by image: a processor's cache holds one image."""
    inputs = pages.batch(len(ids), how.size, how.size, 3)
    turned = flip_mask(ids, epochs, how.seed).tolist()
    shifts = (color_offsets(ids, epochs, how.seed, how.colour) / line.std).float()
    crops = (crop for part in parts for crop in part)  # (H, W, 3) uint8
    rows = shifts.repeat(1, how.size)
    for crop, own, turn, row in zip(crops, inputs, turned, rows, strict=True):
        own.copy_(crop.flip(1) if turn and how.mirror else crop)
        flat = own.view(how.size, -1)
        torch.addcmul(line.offset + row, flat, line.scale, out=flat)
    inputs = inputs.permute(0, 3, 1, 2)
    return random_erase(inputs, ids, epochs, how.seed, how.erasing) if how.erasing else inputs


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEASURED = 10_000  # photographs, at most, that a mean is taken over
BUDGET = 1e-3  # of a training set may be damaged, where damaged pictures are skipped


@dataclass(frozen=True)
class LoaderOptions:
    """Where batches are made, by how many workers, and who hears of damaged pictures."""

    device: torch.device
    workers: int = 0
    world: World = SINGLE_PROCESS
    heard: Callable[[str, str], None] = lambda path, why: None


def training_crop(how: DataConfig) -> Crop:
    """What the workers make of each picture. Raises ValueError for crops of small pictures."""
    match how.crop:
        case "scale":
            cut: Crop = ScaleCrop(how.size, how.scales, how.seed)
        case "aspect":
            cut = AspectCrop(how.size, how.seed)
        case _:
            raise ValueError("photographs are cut by crop=scale or crop=aspect, not by crop=pad")
    return TrivialAugment(cut, how.seed) if how.trivial else cut


def file_batches(
    photographs: ImageFiles,
    preprocessing: Preprocessing,
    how: DataConfig,
    place: LoaderOptions,
    classes: int,
    step: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches from the one after `step` steps on: input (B, 3, H, W) and labels, (B,), or
    (B, classes) where images are mixed. B is this process's part.

    A batch is a function of its arguments and its number alone, on any number of workers and
    processes. Raises Damaged, naming the picture, unless damaged ones are skipped.
    """
    finish = make_collate(preprocessing, how, place.device)
    skipping = DamagePolicy(photographs, how.bad_images == "skip", place.heard)

    def plan() -> Iterator[tuple[Tensor, Tensor]]:
        number = step
        while True:
            yield batch_indices(photographs.labels, how, number, place.world)
            number += 1

    coming = (task for ids, epochs in plan() for task in make_tasks(ids.tolist(), epochs.tolist()))
    done = read_crops(
        photographs, training_crop(how), coming, place.workers, replaced=skipping.allowed
    )
    own = how.batch // place.world.size
    while True:
        ids, epochs = batch_indices(photographs.labels, how, step, place.world)
        parts = []
        for _ in range(math.ceil(own / IMAGES_PER_TASK)):
            part = next(done)
            skipping.hear(part)
            parts.append(part.flat.view(-1, how.size, how.size, 3))
        labels = photographs.labels[ids].to(place.device)
        inputs = finish(parts, ids, epochs)
        if how.mixup or how.cutmix:
            first = (step * place.world.size + place.world.rank) * (own // how.norm_group)
            inputs, labels = mix_groups(inputs, labels, classes, how, first)
        yield inputs, labels
        step += 1


def mix_groups(
    inputs: Tensor, labels: Tensor, classes: int, how: DataConfig, first: int
) -> tuple[Tensor, Tensor]:
    """Each norm group mixed by itself; `first` is the number of the first in the whole training."""
    groups = len(inputs) // how.norm_group
    parts = [
        mix_batch(x, y, classes, seed=how.seed, step=first + g, mixup=how.mixup, cutmix=how.cutmix)
        for g, (x, y) in enumerate(zip(inputs.chunk(groups), labels.chunk(groups), strict=True))
    ]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def check_damage_budget(lost: int, size: int, last: str) -> None:
    """Raises Damaged where more pictures of a training set were skipped than may be."""
    budget = math.ceil(BUDGET * size)
    if lost > budget:
        raise DamagedImage(
            f"{lost} of {size:,} training pictures are damaged, more than the {budget} that may be "
            f"skipped; the last is {last}"
        )


class DamagePolicy:
    """What becomes of damaged pictures: the first ends the training, or they are counted."""

    def __init__(
        self, photographs: ImageFiles, allowed: bool, heard: Callable[[str, str], None]
    ) -> None:
        self.size, self.allowed, self.heard = len(photographs), allowed, heard
        self.paths: set[str] = set()

    def hear(self, done: ReadResult) -> None:
        """Raises Damaged where none may be skipped, or too many were."""
        for path, why in done.damaged:
            if not self.allowed:
                raise DamagedImage(f"{why}; mend it, or train with --bad-images skip")
            if path in self.paths:
                continue
            self.paths.add(path)
            self.heard(path, why)
            check_damage_budget(len(self.paths), self.size, path)
        if any(not own for own in done.shapes):
            raise DamagedImage(f"no whole picture was found in the class of {done.damaged[-1][0]}")


def measure_preprocessing(
    photographs: ImageFiles,
    kind: str,
    size: int,
    shorter: int,
    workers: int,
    progress: Progress = no_progress,
) -> Preprocessing:
    """The mean that is subtracted: of each pixel or of each channel, over centre crops of the
    training set; or ImageNet's channel means and deviations, which most public weights go by."""
    if kind == "imagenet":
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        return Preprocessing(mean, std, (size, size), shorter)
    # Choice: the mean is taken over centre crops of at most 10,000 training pictures, drawn by the
    # keyed order; the paper says only "per-pixel mean subtracted". Damaged pictures are left out.
    ids = permutation(0, 0, len(photographs))[:MEASURED].tolist()
    total = torch.zeros(size, size, 3, dtype=torch.int64)
    seen, tasks = 0, make_tasks(ids, [0] * len(ids))
    centres = CenterCornerCrops((size, size), (shorter,))
    for n, done in enumerate(read_crops(photographs, centres, tasks, workers), 1):
        whole = [cut[0] for cut in done.cuts if cut]
        seen += len(whole)
        if whole:
            total += torch.cat(whole).sum(dim=0, dtype=torch.int64)
        progress(min(n * IMAGES_PER_TASK, len(ids)), len(ids))
    mean = (total.double() / (255 * max(seen, 1))).permute(2, 0, 1)
    if kind == "channel":
        mean = mean.mean(dim=(1, 2), keepdim=True)
    return Preprocessing(mean.float(), torch.ones(3, 1, 1), (size, size), shorter)


def max_workers(workers: int, bytes_per_task: int, shared: Path = Path("/dev/shm")) -> int:
    """As many workers as the memory that processes share has room for; at least none."""
    if not shared.is_dir():
        return workers
    # Four tasks wait for each worker, and as much stays free.
    return min(workers, shutil.disk_usage(shared).free // (2 * 4 * bytes_per_task))


def training_batches(
    images: ImageTensors,
    preprocessing: Preprocessing,
    how: DataConfig,
    step: int = 0,
    world: World = SINGLE_PROCESS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches from the one after `step` steps on: input (B, 3, H, W) and labels (B,).

    A batch is a function of its arguments and its number alone.
    """
    while True:
        ids, epochs = batch_indices(images.labels, how, step, world)
        inputs = preprocessing(images.pixels[ids])
        inputs = pad_crop_flip(inputs, ids, epochs, how.seed, how.padding, how.mirror)
        yield inputs, images.labels[ids]
        step += 1


def evaluation_batches(
    images: ImageTensors, preprocessing: Preprocessing, batch: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order, as it is: input (B, 3, H, W) and labels (B,)."""
    for pixels, labels in zip(
        torch.split(images.pixels, batch), torch.split(images.labels, batch), strict=True
    ):
        yield preprocessing(pixels), labels
