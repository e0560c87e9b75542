"""How fast photographs come to a network here, stage by stage, and what holds that back."""

import itertools
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual.data.datasets import Data, FolderSource, ImageFiles
from residual.data.decode import DecodedImage, PixelSource, as_pixels
from residual.data.loader import IMAGES_PER_TASK, LoaderOptions, training_crop
from residual.data.loader import make_collate as finishing_of
from residual.data.packed import PackedSource
from residual.data.preprocessing import Preprocessing
from residual.data.sampler import batch_indices
from residual.device import ComputeConfig
from residual.models.registry import build
from residual.tasks.classification import loader, loop
from residual.tasks.classification.recipe import Recipe

HELD = 64  # decoded pictures that are cut again and again
AHEAD = 4 * IMAGES_PER_TASK  # pictures of each worker that may be ready before a measurement begins

Step = Callable[[], int]  # does some of the work -> how many images that was


@dataclass(frozen=True)
class Stage:
    """One stage of the way, measured by itself."""

    name: str
    images_per_second: float
    by: str  # what did the work


@dataclass(frozen=True)
class Bench:
    """What is measured, and how."""

    data: Data
    recipe: Recipe
    how: ComputeConfig
    workers: int
    seconds: float  # for each stage

    @property
    def photographs(self) -> ImageFiles:
        assert isinstance(self.data.train, ImageFiles)
        return self.data.train

    @property
    def device(self) -> torch.device:
        return torch.device(self.how.device)


def stages(bench: Bench) -> Generator[Stage]:
    """Each stage in its turn. Raises Damaged, naming the picture, and OSError."""
    one, device = "one core", bench.how.device
    crowd = f"{bench.workers} workers" if bench.workers else "no worker besides this process"
    crops = cuts(bench)
    ids, epochs = batch_indices(bench.photographs.labels, loader.drawing(bench.recipe), 0)
    before = loader.preprocessing(bench.recipe, bench.data).to(bench.device)
    there = crops.to(bench.device)
    yield Stage("disk", speed(reading(bench), bench), one)
    yield Stage("decode", speed(decoding(bench), bench), one)
    yield Stage("crop and resize", speed(cutting(bench), bench), one)
    if bench.device.type != "cpu":
        yield Stage("transfer", speed(sending(bench, crops), bench), device)
    finish = finishing(bench, there, ids.to(bench.device), epochs.to(bench.device), before)
    yield Stage("rest of the augmentation", speed(finish, bench), device)
    yield Stage("batches", speed(loading(bench, before), bench, ahead(bench)), crowd)
    noise = loader.made_up(bench.recipe, bench.recipe.batch, bench.how)
    yield Stage("network", speed(training(bench, noise), bench), device)
    batches = loader.batches(bench.recipe, bench.data, before, place(bench))
    both = speed(training(bench, batches), bench, ahead(bench))
    yield Stage("end to end", both, f"{crowd}, {device}")


def speed(step: Step, bench: Bench, ahead: int = 0) -> float:
    """Images per second, after a first step and as many more as may be ready ahead."""
    step()
    while ahead > 0:
        ahead -= step()
    wait(bench)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < bench.seconds:
        done += step()
    wait(bench)
    return done / (time.perf_counter() - begun)


def wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)


def ahead(bench: Bench) -> int:
    """Pictures that are passed over, so that none counts which was made before."""
    return bench.workers * AHEAD


def place(bench: Bench) -> LoaderOptions:
    return LoaderOptions(bench.device, bench.workers)


def visits(bench: Bench) -> Iterator[tuple[int, int]]:
    """Pictures as the recipe visits them: (image, epoch)."""
    how = loader.drawing(bench.recipe)
    for step in itertools.count():
        ids, epochs = batch_indices(bench.photographs.labels, how, step)
        yield from zip(ids.tolist(), epochs.tolist(), strict=True)


def reading(bench: Bench) -> Step:
    """The files' bytes; what the system still has in memory is forgotten, where it allows that."""
    source, coming = bench.photographs.source, visits(bench)

    def step() -> int:
        i = int(bench.photographs.indices[next(coming)[0]])
        if isinstance(source, PackedSource):
            source.sample(i)
            return 1
        assert isinstance(source, FolderSource)
        with (source.folder / source.name(i)).open("rb") as file:
            with suppress(AttributeError, OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.read()
        return 1

    return step


@dataclass
class Noted:
    """A picture that remembers which part of it was asked for."""

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


def decoding(bench: Bench) -> Step:
    """From the files' bytes, which the system has in memory by now, to the pixels that the draws of
    the recipe need."""
    cut, needed = training_crop(loader.drawing(bench.recipe)), []
    for i, epoch in itertools.islice(visits(bench), HELD):
        noted = Noted(as_pixels(bench.photographs.image(i)))
        cut(noted, i, epoch)
        needed.append((i, noted.box))
    coming = itertools.cycle(needed)

    def step() -> int:
        i, box = next(coming)
        as_pixels(bench.photographs.image(i)).part(*box)
        return 1

    return step


def cutting(bench: Bench) -> Step:
    """From pixels to the crop, by the draws of the recipe."""
    few = itertools.islice(visits(bench), HELD)
    images = [DecodedImage(as_pixels(bench.photographs.image(i)).pixels) for i, _ in few]
    cut, count = training_crop(loader.drawing(bench.recipe)), itertools.count()

    def step() -> int:
        n = next(count)
        cut(images[n % len(images)], n, 0)
        return 1

    return step


def cuts(bench: Bench) -> Tensor:
    """The crops (B, H, W, 3) of a batch."""
    cut = training_crop(loader.drawing(bench.recipe))
    few = itertools.islice(visits(bench), bench.recipe.batch)
    every = [torch.tensor(cut(bench.photographs.image(i), i, epoch)[0]) for i, epoch in few]
    return torch.cat(every)


def sending(bench: Bench, crops: Tensor) -> Step:
    def step() -> int:
        crops.to(bench.device)
        return len(crops)

    return step


def finishing(
    bench: Bench, crops: Tensor, ids: Tensor, epochs: Tensor, before: Preprocessing
) -> Step:
    """From crops to the normalised batch: mirror, colour, mean."""
    finish = finishing_of(before, loader.drawing(bench.recipe), bench.device)

    def step() -> int:
        finish([crops], ids, epochs)
        return len(crops)

    return step


def loading(bench: Bench, before: Preprocessing) -> Step:
    """All of this together, without a network."""
    batches = loader.batches(bench.recipe, bench.data, before, place(bench))
    return lambda: len(next(batches)[0])


def training(bench: Bench, batches: Iterator[tuple[Tensor, Tensor]]) -> Step:
    """Steps of a fresh network."""
    recipe = replace(bench.recipe, steps=2**62, drops=())
    net = bench.how.prepare(build(recipe.network, len(bench.data.classes)))
    steps = loop.train(loop.start(net, recipe), batches, recipe, loop.Pass(bench.how.autocast))

    def step() -> int:
        float(next(steps).loss)  # waits for the device
        return recipe.batch

    return step


def verdict(found: list[Stage], workers: int, cores: int) -> str:
    """The bottleneck, and what would help, in two sentences."""
    speeds = {stage.name: stage.images_per_second for stage in found}
    network, batches = speeds["network"], speeds["batches"]
    if network < batches:
        return (
            f"The network is the bottleneck: it takes {network:,.0f} images/s, and the data could "
            f"bring {batches:,.0f}. Another device or precision would help, more workers would not."
        )
    slow = f"{batches:,.0f} images/s, and the network could take {network:,.0f}"
    here = ("transfer", "rest of the augmentation")  # in this process, whatever the workers do
    main = 1 / sum(1 / speeds.get(name, math.inf) for name in here)
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
