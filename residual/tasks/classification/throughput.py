"""Speed of training and of its data: one step, and each stage from a photograph to a batch."""

import itertools
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual.data.datasets import Data, FolderSource, ImageFiles
from residual.data.decode import DecodedImage, as_pixels
from residual.data.loader import IMAGES_PER_TASK, LoaderOptions, make_collate, training_crop
from residual.data.packed import PackedSource
from residual.data.sampler import batch_indices
from residual.device import ComputeConfig, hardware_name
from residual.models.registry import build
from residual.runs.environment import versions
from residual.tasks.classification import loader, loop
from residual.tasks.classification.loader import crop_size
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.training.loop import StepOptions

STEPS = 5  # of which the median is taken
HELD = 64  # decoded pictures that are cut again and again
AHEAD = 4 * IMAGES_PER_TASK  # pictures of each worker that may be ready before a measurement begins


def trial_key(config: ComputeConfig, recipe: ClassificationRecipe) -> str:
    """Everything that the speed of a step depends on, in words."""
    groups = f"{recipe.batch}/{recipe.norm_group}"
    size = f"{crop_size(recipe)}px"
    return " ".join([hardware_name(config), versions()["torch"], recipe.network, groups, size])


def seconds_per_step(config: ComputeConfig, recipe: ClassificationRecipe, classes: int) -> float:
    """The median over a few steps of a fresh network on one norm group of noise, after a first
    step that is not counted."""
    group = replace(recipe, batch=recipe.norm_group, repeats=1)
    with config.activate():
        work = training(group, config, classes, noise(group, config))
        times = [time.perf_counter() for _ in itertools.islice(work, 1 + STEPS)]
    return median(end - start for start, end in itertools.pairwise(times))


def training(
    recipe: ClassificationRecipe,
    config: ComputeConfig,
    classes: int,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> Iterator[int]:
    """Train a fresh network without end -> the images of each step, when it is done."""
    endless = replace(recipe, steps=2**62)
    with torch.random.fork_rng(devices=[]):
        net = config.prepare(build(recipe.network, classes))
    for step in loop.train(
        loop.start(net, endless), batches, endless, StepOptions(config.autocast)
    ):
        float(step.loss)  # waits for the device
        yield recipe.batch


def noise(recipe: ClassificationRecipe, config: ComputeConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch of noise again and again. Zeros would become denormal numbers, which are slow."""
    images, size = recipe.batch, crop_size(recipe)
    with torch.random.fork_rng(devices=[]):
        pixels = torch.rand(images, 3, size, size)
    inputs = pixels.to(config.device).contiguous(memory_format=config.memory_format)
    return itertools.repeat((inputs, torch.zeros(images, dtype=torch.int64, device=config.device)))


def images_per_second(
    work: Iterator[int], seconds: float, device: torch.device, ahead: int = 0
) -> float:
    """The speed of work on a device that yields how many images it has done. Its first part is not
    counted, nor are as many images as may be ready ahead."""
    next(work)
    while ahead > 0:
        ahead -= next(work)
    synchronize(device)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += next(work)
    synchronize(device)
    return done / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Stage:
    """The speed of one stage, measured by itself."""

    name: str
    images_per_second: float
    by: str  # what did the work


@dataclass(frozen=True)
class Bench:
    """The data, the recipe and the machine of a measurement."""

    data: Data
    recipe: ClassificationRecipe
    config: ComputeConfig
    workers: int
    seconds: float  # for each stage

    @property
    def photographs(self) -> ImageFiles:
        assert isinstance(self.data.train, ImageFiles)
        return self.data.train

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)

    def visits(self) -> Iterator[tuple[int, int]]:
        """Pictures as the recipe visits them: (image, epoch)."""
        for step in itertools.count():
            ids, epochs = batch_indices(self.photographs.labels, loader.drawing(self.recipe), step)
            yield from zip(ids.tolist(), epochs.tolist(), strict=True)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches, as the workers deliver them."""
        preprocessing = loader.preprocessing(self.recipe, self.data)
        place = LoaderOptions(self.device, self.workers)
        return loader.batches(self.recipe, self.data, preprocessing, place)


def stages(bench: Bench) -> Generator[Stage]:
    """Measure each stage. Raises DamagedImage, naming the picture, and OSError."""
    one, device = "one core", bench.config.device
    workers = f"{bench.workers} workers" if bench.workers else "no worker besides this process"
    speed = partial(images_per_second, seconds=bench.seconds, device=bench.device)
    train = partial(training, bench.recipe, bench.config, len(bench.data.classes))
    crops = batch_of_crops(bench)  # first, so that a damaged picture is named before any output
    yield Stage("disk", speed(reading(bench)), one)
    yield Stage("decode", speed(decoding(bench)), one)
    yield Stage("crop and resize", speed(cutting(bench)), one)
    if bench.device.type != "cpu":
        sending = (len(crops.to(bench.device)) for _ in itertools.repeat(None))
        yield Stage("transfer", speed(sending), device)
    yield Stage("rest of the augmentation", speed(finishing(crops, bench)), device)
    ahead = bench.workers * AHEAD
    # No stage's workers or network stay alive in the next one.
    loading = speed((len(images) for images, _ in bench.batches()), ahead=ahead)
    yield Stage("batches", loading, workers)
    yield Stage("network", speed(train(noise(bench.recipe, bench.config))), device)
    both = speed(train(bench.batches()), ahead=ahead)
    yield Stage("end to end", both, f"{workers}, {device}")


def reading(bench: Bench) -> Iterator[int]:
    """Read the files' bytes, past the system's cache where it allows that."""
    source = bench.photographs.source
    for image, _ in bench.visits():
        place = int(bench.photographs.indices[image])
        if isinstance(source, PackedSource):
            source.sample(place)
        else:
            assert isinstance(source, FolderSource)
            with (source.folder / source.name(place)).open("rb") as file:
                with suppress(AttributeError, OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.read()
        yield 1


class BoxRecorder(DecodedImage):
    """An image that records which part of it was asked for."""

    def part(self, *box: int) -> NDArray[np.uint8]:
        self.box = box
        return super().part(*box)


def decoding(bench: Bench) -> Iterator[int]:
    """Decode the pixels that the recipe's crops need, of files that are in the system's cache."""
    cut, boxes = training_crop(loader.drawing(bench.recipe)), []
    for image, epoch in itertools.islice(bench.visits(), HELD):
        recorder = BoxRecorder(as_pixels(bench.photographs.image(image)).pixels)
        cut(recorder, image, epoch)
        boxes.append((image, recorder.box))
    for image, box in itertools.cycle(boxes):
        as_pixels(bench.photographs.image(image)).part(*box)
        yield 1


def cutting(bench: Bench) -> Iterator[int]:
    """Cut the recipe's crops from decoded pictures."""
    images = [image for image, _ in itertools.islice(bench.visits(), HELD)]
    pictures = [DecodedImage(as_pixels(bench.photographs.image(i)).pixels) for i in images]
    cut = training_crop(loader.drawing(bench.recipe))
    for n in itertools.count():
        cut(pictures[n % len(pictures)], n, 0)
        yield 1


def batch_of_crops(bench: Bench) -> Tensor:
    """The crops (B, H, W, 3) of a batch."""
    cut = training_crop(loader.drawing(bench.recipe))
    visits = itertools.islice(bench.visits(), bench.recipe.batch)
    return torch.cat([torch.tensor(cut(bench.photographs.image(i), i, e)[0]) for i, e in visits])


def finishing(crops: Tensor, bench: Bench) -> Iterator[int]:
    """Make the normalised batch of crops: mirror, colour, mean."""
    drawing = loader.drawing(bench.recipe)
    preprocessing = loader.preprocessing(bench.recipe, bench.data).to(bench.device)
    finish = make_collate(preprocessing, drawing, bench.device)
    ids, epochs = (t.to(bench.device) for t in batch_indices(bench.photographs.labels, drawing, 0))
    crops = crops.to(bench.device)
    while True:
        finish([crops], ids, epochs)
        yield len(crops)


def verdict(measured: list[Stage], workers: int, cores: int) -> str:
    """The bottleneck, and what would help, in two sentences."""
    speeds = {stage.name: stage.images_per_second for stage in measured}
    network, batches = speeds["network"], speeds["batches"]
    if network < batches:
        return (
            f"The network is the bottleneck: it takes {network:,.0f} images/s, and the data could "
            f"bring {batches:,.0f}. Another device or precision would help, more workers would not."
        )
    slow = f"{batches:,.0f} images/s, and the network could take {network:,.0f}"
    # The stages of this process, and those of each worker.
    main_stages = ("transfer", "rest of the augmentation")
    main = 1 / sum(1 / speeds.get(name, math.inf) for name in main_stages)
    reads = 1 / (1 / speeds["decode"] + 1 / speeds["crop and resize"])
    if speeds["disk"] < min(reads * max(workers, 1), main):
        return (
            f"The disk is the bottleneck: {slow}. Packed data (residual data pack) is read in "
            f"longer stretches; a faster disk would help, too."
        )
    if workers and main < reads * workers:
        return (
            f"The rest of the augmentation is the bottleneck: {slow}. It is done where the network "
            f"is: a GPU would help, more workers would not."
        )
    part = "Decoding" if speeds["decode"] < speeds["crop and resize"] else "Cutting and resizing"
    if workers < cores:
        return f"{part} is the bottleneck: {slow}. More workers would help: --workers {cores}."
    return (
        f"{part} is the bottleneck: {slow}. All {cores} cores work at it; smaller pictures "
        f"(residual data pack --shorter-side) or decoded ones (--as raw) would help."
    )
