"""Data loaders: workers cut crops of image files, and batches are finished on the device."""

import math
import shutil
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
from residual.data.normalization import Preprocessing
from residual.data.rng import permutation, randint
from residual.data.sampler import DataConfig, batch_indices
from residual.data.test_crops import Views
from residual.distributed import SINGLE_PROCESS, World

REPLACEMENT_DRAW = 1_000  # the first draw that chooses a replacement of a damaged image
IMAGES_PER_TASK = 16  # that a worker reads at a time
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ReadTask = tuple[Sequence[int], Sequence[int]]  # images, and the epoch of each
MEAN_IMAGES = 10_000  # that a mean is taken over, at most
DAMAGE_BUDGET = 1e-3  # of a training set, if damaged images are skipped

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class LoaderOptions:
    """What changes no batch: the device, the workers, and a callback (path, reason) for damage."""

    device: torch.device
    workers: int = 0
    world: World = SINGLE_PROCESS
    on_damaged: Callable[[str, str], object] = lambda path, why: None


def read_ahead(
    read: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Iterator[Callable[[], R]]:
    """Reads items in threads, up to `ahead` items beyond the current one. Yields functions in order
    that wait for the result and raise what `read` raised."""
    pool, waiting = ThreadPoolExecutor(max(workers, 1)), deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class ReadResult:
    """The crops of a task, which travel between processes as one tensor."""

    ids: Sequence[int]
    flat: Tensor  # (pixels,) uint8
    shapes: list[list[tuple[int, ...]]]  # of each image's arrays; empty for a damaged image
    damaged: list[tuple[str, str]]  # (path, reason)

    @property
    def cuts(self) -> list[list[Tensor]]:
        """The arrays (views, height, width, 3) uint8 of each image; empty for a damaged image."""
        parts = iter(
            torch.split(self.flat, [math.prod(s) for shapes in self.shapes for s in shapes])
        )
        return [[next(parts).view(shape) for shape in shapes] for shapes in self.shapes]


class CropDataset(Dataset[ReadResult]):
    """Reads the images of a task in a worker. A damaged image is replaced by one of its class, or
    left out."""

    def __init__(self, images: ImageFiles, crop: Crop, replace_damaged: bool) -> None:
        self.images, self.crop, self.replace_damaged = images, crop, replace_damaged

    def __getitem__(self, task: ReadTask) -> ReadResult:
        damaged: list[tuple[str, str]] = []
        crops = [self._read(*key, damaged) for key in zip(*task, strict=True)]
        arrays = [array for image_crops in crops for array in image_crops]
        flat = torch.from_numpy(np.concatenate(arrays, None)) if arrays else torch.empty(0).byte()
        shapes = [[array.shape for array in image_crops] for image_crops in crops]
        return ReadResult(task[0], flat, shapes, damaged)

    def _read(
        self, image_id: int, epoch: int, damaged: list[tuple[str, str]]
    ) -> list[NDArray[np.uint8]]:
        for candidate in self._candidates(image_id, epoch):
            try:
                return self.crop(self.images.image(candidate), image_id, epoch)
            except (DamagedImage, OSError) as error:
                damaged.append((self.images.name(candidate), str(error)))
        return []

    def _candidates(self, image_id: int, epoch: int) -> Iterator[int]:
        yield image_id
        if self.replace_damaged:
            labels = self.images.labels
            of_class = torch.nonzero(labels == labels[image_id]).flatten()
            for draw in range(REPLACEMENT_DRAW, REPLACEMENT_DRAW + min(10, len(of_class))):
                yield int(of_class[int(randint(len(of_class), image_id, epoch, draw))])


def read_crops(
    images: ImageFiles,
    crop: Crop,
    tasks: Iterable[ReadTask],
    workers: int,
    replace_damaged: bool = False,
) -> Iterator[ReadResult]:
    """The results of the tasks in order, computed by worker processes or in this process."""
    with warnings.catch_warnings(action="ignore"):  # torch warns of more workers than cores
        loader = DataLoader(
            CropDataset(images, crop, replace_damaged),
            batch_size=None,
            sampler=tasks,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        results = iter(loader)
    yield from results


def make_tasks(
    ids: Sequence[int], epochs: Sequence[int], size: int = IMAGES_PER_TASK
) -> Iterator[ReadTask]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size], epochs[start : start + size]


def make_collate(
    preprocessing: Preprocessing, config: DataConfig, device: torch.device
) -> Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]:
    """A function of crops, in parts (n, H, W, 3) uint8, and their ids and epochs (B,). It returns
    the input (B, 3, H, W) float32 on the device."""
    if device.type == "cpu":
        return CpuCollate(preprocessing, config)

    def collate(parts: Sequence[Tensor], ids: Tensor, epochs: Tensor) -> Tensor:
        crops = torch.cat(list(parts)).to(device)
        return finish_batch(crops, ids.to(device), epochs.to(device), preprocessing, config)

    return collate


def finish_batch(
    crops: Tensor, ids: Tensor, epochs: Tensor, preprocessing: Preprocessing, config: DataConfig
) -> Tensor:
    """Crops (B, H, W, 3) uint8 -> input (B, 3, H, W) float32 in channels_last."""
    inputs = crops.permute(0, 3, 1, 2)
    if config.mirror:
        inputs = random_flip(inputs, ids, epochs, config.seed)
    inputs = inputs.float().div_(255)
    if config.colour:
        inputs = shift_colors(inputs, ids, epochs, config.seed, config.colour)
    inputs = preprocessing.normalize(inputs)
    return random_erase(inputs, ids, epochs, config.seed, config.erasing)


class CpuCollate:
    """`finish_batch` image by image, since a processor's cache holds one image, with division, mean
    and deviation as one multiply-add."""

    def __init__(self, preprocessing: Preprocessing, config: DataConfig) -> None:
        self.config, size = config, config.size
        std = preprocessing.std.double()
        # In rows of pixels: of three numbers alone, a processor would take three at a time.
        self.scale, self.offset = (
            value.permute(1, 2, 0).expand(-1, size, 3).reshape(-1, 3 * size).float()
            for value in (1 / 255 / std, -preprocessing.mean.double() / std)
        )  # (1, 3 W), and (H, 3 W) or (1, 3 W)
        self.std = std.flatten()
        self.buffers: list[tuple[NDArray[np.float32], weakref.ref[NDArray[np.float32]]]] = []

    def __call__(self, parts: Sequence[Tensor], ids: Tensor, epochs: Tensor) -> Tensor:
        config = self.config
        inputs = self.buffer(len(ids), config.size, config.size, 3)
        flips = flip_mask(ids, epochs, config.seed).tolist()
        shifts = (color_offsets(ids, epochs, config.seed, config.colour) / self.std).float()
        crops = (crop for part in parts for crop in part)  # (H, W, 3) uint8
        rows = shifts.repeat(1, config.size)
        for crop, image, flip, row in zip(crops, inputs, flips, rows, strict=True):
            image.copy_(crop.flip(1) if flip and config.mirror else crop)
            flat = image.view(config.size, -1)
            torch.addcmul(self.offset + row, flat, self.scale, out=flat)
        inputs = inputs.permute(0, 3, 1, 2)
        return random_erase(inputs, ids, epochs, config.seed, config.erasing)

    def buffer(self, *shape: int) -> Tensor:
        """Uninitialized memory. It is that of an earlier batch without references, since new memory
        takes the system longer than all arithmetic on a batch."""
        free = (array for array, view in self.buffers if view() is None and array.shape == shape)
        if (memory := next(free, None)) is None:
            memory = np.empty(shape, np.float32)
        view = memory.view()
        self.buffers = [entry for entry in self.buffers if entry[0] is not memory]
        self.buffers.append((memory, weakref.ref(view)))
        return torch.from_numpy(view)


def training_crop(config: DataConfig) -> Crop:
    """The random crop of a recipe. Raises ValueError for crop=pad, which takes small images."""
    match config.crop:
        case "scale":
            crop: Crop = ScaleCrop(config.size, config.scales, config.seed)
        case "aspect":
            crop = AspectCrop(config.size, config.seed)
        case _:
            raise ValueError("photographs are cut by crop=scale or crop=aspect, not by crop=pad")
    return TrivialAugment(crop, config.seed) if config.trivial else crop


def training_batches(
    images: ImageTensors,
    preprocessing: Preprocessing,
    config: DataConfig,
    step: int = 0,
    world: World = SINGLE_PROCESS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches after `step` steps: input (B, 3, H, W) and labels (B,), this process's part.

    A batch is a function of the arguments and its number alone.
    """
    while True:
        ids, epochs = batch_indices(images.labels, config, step, world)
        inputs = preprocessing(images.pixels[ids])
        inputs = pad_crop_flip(inputs, ids, epochs, config.seed, config.padding, config.mirror)
        yield inputs, images.labels[ids]
        step += 1


def file_batches(
    images: ImageFiles,
    preprocessing: Preprocessing,
    config: DataConfig,
    options: LoaderOptions,
    classes: int,
    step: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for image files; the labels are (B, classes) if images are mixed.

    Raises DamagedImage, naming the image, unless damaged images are skipped.
    """
    collate = make_collate(preprocessing, config, options.device)
    skip = config.bad_images == "skip"

    def tasks() -> Iterator[ReadTask]:
        number = step
        while True:
            ids, epochs = batch_indices(images.labels, config, number, options.world)
            yield from make_tasks(ids.tolist(), epochs.tolist())
            number += 1

    crop = training_crop(config)
    results = read_crops(images, crop, tasks(), options.workers, replace_damaged=skip)
    results = check_damage(results, len(images), skip, options.on_damaged)
    local_batch = config.batch // options.world.size
    while True:
        ids, epochs = batch_indices(images.labels, config, step, options.world)
        parts = [
            next(results).flat.view(-1, config.size, config.size, 3)
            for _ in range(math.ceil(local_batch / IMAGES_PER_TASK))
        ]
        labels = images.labels[ids].to(options.device)
        inputs = collate(parts, ids, epochs)
        if config.mixup or config.cutmix:
            groups = local_batch // config.norm_group
            first = (step * options.world.size + options.world.rank) * groups
            inputs, labels = _mix_groups(inputs, labels, classes, config, first)
        yield inputs, labels
        step += 1


def _mix_groups(
    inputs: Tensor, labels: Tensor, classes: int, config: DataConfig, first: int
) -> tuple[Tensor, Tensor]:
    """Mix the images of each norm group; `first` is the number of the first group in the run."""
    n, alphas = config.norm_group, {"mixup": config.mixup, "cutmix": config.cutmix}
    parts = [
        mix_batch(x, y, classes, seed=config.seed, step=group, **alphas)
        for group, (x, y) in enumerate(
            zip(torch.split(inputs, n), torch.split(labels, n), strict=True), first
        )
    ]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def evaluation_batches(
    images: ImageTensors, preprocessing: Preprocessing, batch: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each image once, in order: input (B, 3, H, W) and labels (B,)."""
    parts = torch.split(images.pixels, batch), torch.split(images.labels, batch)
    for pixels, labels in zip(*parts, strict=True):
        yield preprocessing(pixels), labels


def check_damage_budget(damaged: int, size: int, last: str) -> None:
    """Raises DamagedImage if too many images of a training set were skipped."""
    budget = math.ceil(DAMAGE_BUDGET * size)
    if damaged > budget:
        raise DamagedImage(
            f"{damaged} of {size:,} training pictures are damaged, more than the {budget} that may "
            f"be skipped; the last is {last}"
        )


def check_damage(
    results: Iterator[ReadResult], size: int, skip: bool, on_damaged: Callable[[str, str], object]
) -> Iterator[ReadResult]:
    """The same results, of a training set of this size. Raises DamagedImage if no image may be
    skipped, too many were, or a class has none."""
    paths: set[str] = set()
    for result in results:
        for path, reason in result.damaged:
            if not skip:
                raise DamagedImage(f"{reason}; mend it, or train with --bad-images skip")
            if path not in paths:
                paths.add(path)
                on_damaged(path, reason)
                check_damage_budget(len(paths), size, path)
        if not all(result.shapes):
            raise DamagedImage(
                f"no whole picture was found in the class of {result.damaged[-1][0]}"
            )
        yield result


def measure_preprocessing(
    images: ImageFiles,
    mean_kind: str,
    size: int,
    shorter: int,
    workers: int,
    progress: Progress = no_progress,
) -> Preprocessing:
    """Preprocessing by the mean of each pixel or each channel over centre crops of the training
    set; or by ImageNet's channel means and deviations, as most public weights expect."""
    if mean_kind == "imagenet":
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return Preprocessing(mean, std, (size, size), shorter)
    # Choice: the mean is that of centre crops of at most 10,000 random training pictures, without
    # damaged ones; the paper says only "per-pixel mean subtracted".
    ids = permutation(0, 0, len(images))[:MEAN_IMAGES].tolist()
    tasks, crop = make_tasks(ids, [0] * len(ids)), Views("centre", (size, size), (shorter,))
    total, crop_count, done = torch.zeros(size, size, 3, dtype=torch.int64), 0, 0
    for result in read_crops(images, crop, tasks, workers):
        crops = result.flat.view(-1, size, size, 3)
        total += crops.sum(dim=0, dtype=torch.int64)
        crop_count += len(crops)
        done += len(result.ids)
        progress(done, len(ids))
    mean = (total.double() / (255 * max(crop_count, 1))).permute(2, 0, 1)
    if mean_kind == "channel":
        mean = mean.mean(dim=(1, 2), keepdim=True)
    return Preprocessing(mean.float(), torch.ones(3, 1, 1), (size, size), shorter)


def max_workers(workers: int, bytes_per_task: int, shared: Path = Path("/dev/shm")) -> int:
    """At most as many workers as fit into the memory that processes share; possibly none."""
    if not shared.is_dir():
        return workers
    # Four tasks wait for each worker, and as much stays free.
    return min(workers, shutil.disk_usage(shared).free // (2 * 4 * bytes_per_task))
