"""Speed of training and of its data: one step, and each stage from a photograph to a batch."""

import itertools
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual.data.datasets import Data, FolderSource, ImageFiles
from residual.data.decode import DecodedImage, PixelSource, as_pixels
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
    with config.activate():
        with torch.random.fork_rng(devices=[]):
            net = config.prepare(build(recipe.network, classes))
        short = replace(recipe, batch=recipe.norm_group, steps=1 + STEPS, repeats=1)
        batches = noise(recipe, recipe.norm_group, config)
        times = [time.perf_counter()]
        for step in loop.train(
            loop.start(net, short), batches, short, StepOptions(config.autocast)
        ):
            float(step.loss)  # waits for the device
            times.append(time.perf_counter())
    return median(end - start for start, end in itertools.pairwise(times[1:]))


def noise(
    recipe: ClassificationRecipe, images: int, config: ComputeConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch of noise again and again. Zeros would become denormal numbers, which are slow."""
    device, size = torch.device(config.device), crop_size(recipe)
    with torch.random.fork_rng(devices=[]):
        pixels = torch.rand(images, 3, size, size)
    inputs = pixels.to(device).contiguous(memory_format=config.memory_format)
    return itertools.repeat((inputs, torch.zeros(images, dtype=torch.int64, device=device)))


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
    crops = batch_of_crops(bench)  # first, so that a damaged picture is named before any output
    yield Stage("disk", speed(reading(bench), bench), one)
    yield Stage("decode", speed(decoding(bench), bench), one)
    yield Stage("crop and resize", speed(cutting(bench), bench), one)
    if bench.device.type != "cpu":
        sending = (len(crops.to(bench.device)) for _ in itertools.repeat(None))
        yield Stage("transfer", speed(sending, bench), device)
    yield Stage("rest of the augmentation", speed(finishing(crops, bench), bench), device)
    ahead, inputs = bench.workers * AHEAD, noise(bench.recipe, bench.recipe.batch, bench.config)
    # No stage's workers or network stay alive in the next one.
    loading = speed((len(images) for images, _ in bench.batches()), bench, ahead)
    yield Stage("batches", loading, workers)
    yield Stage("network", speed(training(bench, inputs), bench), device)
    both = speed(training(bench, bench.batches()), bench, ahead)
    yield Stage("end to end", both, f"{workers}, {device}")


def speed(work: Iterator[int], bench: Bench, ahead: int = 0) -> float:
    """Images per second of work that yields numbers of images, after a first piece and as many
    images as may be ready ahead."""
    next(work)
    while ahead > 0:
        ahead -= next(work)
    synchronize(bench.device)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < bench.seconds:
        done += next(work)
    synchronize(bench.device)
    return done / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


@dataclass
class BoxRecorder:
    """A picture that records which part of it was asked for."""

    picture: PixelSource
    box: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.size

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return self.picture.pixels

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        self.box = left, top, right, bottom
        return self.picture.part(*self.box)


def decoding(bench: Bench) -> Iterator[int]:
    """Decode the pixels that the recipe's crops need, of files that are in the system's cache."""
    cut, boxes = training_crop(loader.drawing(bench.recipe)), []
    for image, epoch in itertools.islice(bench.visits(), HELD):
        recorder = BoxRecorder(as_pixels(bench.photographs.image(image)))
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


def training(bench: Bench, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[int]:
    """Train a fresh network."""
    recipe = replace(bench.recipe, steps=2**62, drops=())
    net = bench.config.prepare(build(recipe.network, len(bench.data.classes)))
    options = StepOptions(bench.config.autocast)
    for step in loop.train(loop.start(net, recipe), batches, recipe, options):
        float(step.loss)  # waits for the device
        yield recipe.batch


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
