"""Training batches of a detector: images with boxes, resized, mirrored, in keyed order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from residual.data.datasets import Progress, no_progress
from residual.data.decode import DamagedImage, open_image, resize, to_tensor
from residual.data.loader import IMAGENET_MEAN, IMAGENET_STD, check_damage_budget, read_ahead
from residual.data.normalization import Preprocessing
from residual.data.rng import permutation, randint
from residual.device import NonFiniteValues
from residual.distributed import World
from residual.tasks.detection.annotations import read_header
from residual.tasks.detection.boxes import STRIDE, flip
from residual.tasks.detection.datasets import DetectionDataset
from residual.tasks.detection.losses import Sample
from residual.tasks.detection.recipe import DetectionRecipe

AHEAD = 2  # steps whose images are read while one is taken
MIRROR_DRAW = 2  # of the keyed randomness, beside those of losses.py
MEASURED = 200  # images by which the size of objects is measured
T = TypeVar("T")
BatchPlace = tuple[int, int, int]  # position in the batch, epoch, index in the data set


@dataclass(frozen=True)
class ResizedImage:
    """An upright image in the size that a detector takes."""

    pixels: Tensor  # (3, H, W) uint8
    scale: Tensor  # (4,): resized by these factors, to multiply boxes with


def resized_size(size: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """The (width, height) of an image with a shorter side of so many pixels, or a longer side of
    the maximum if it would have more."""
    # Choice: the longest side for 600 pixels scales with the shorter side, so that a picture keeps
    # its proportions at every scale.
    short, long = sorted(size)
    sides = shorter, int(shorter * long / short)
    if sides[1] > longest:
        sides = int(longest * short / long), longest
    sides = max(sides[0], STRIDE), max(sides[1], STRIDE)  # at least one place of the feature map
    return sides if size[0] <= size[1] else sides[::-1]


def load_image(source: Path | bytes | Image.Image, shorter: int, longest: int) -> ResizedImage:
    """An image, upright and resized. Raises DamagedImage and FileNotFoundError."""
    image = open_image(source)
    width, height = resized_size(image.size, shorter, longest)
    x, y = width / image.size[0], height / image.size[1]
    return ResizedImage(to_tensor(resize(image, (height, width))), torch.tensor([x, y, x, y]))


def normalize(image: ResizedImage, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """The input (3, H, W) of a detector, on the device."""
    return preprocessing(image.pixels.to(device)[None])[0]


def imagenet_preprocessing(shorter: int, pixel_range: int = 1) -> Preprocessing:
    """For training from scratch; a network may take pixels from 0 to 255 (`pixel_range`)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    if pixel_range > 1:
        std = torch.full_like(std, 1 / pixel_range)
    return Preprocessing(mean, std, (shorter, shorter), shorter)


def median_side(dataset: DetectionDataset, recipe: DetectionRecipe) -> float:
    """The median square root of the areas of objects, in pixels of images of the recipe's shorter
    side (`longest` is ignored); 0 without objects."""
    sides = []
    for example in [one for one in dataset.examples if len(one.boxes)][:MEASURED]:
        shorter = min(read_header(example.path).upright)
        size = (example.boxes[:, 2:] - example.boxes[:, :2]).prod(dim=1).sqrt()
        sides.append(size * recipe.shorter / shorter)
    return float(torch.cat(sides).median()) if sides else 0.0


def map_images(
    compute: Callable[[list[ResizedImage]], T],
    dataset: DetectionDataset,
    sides: list[tuple[int, int]],
    workers: int,
    world: World,
    progress: Progress = no_progress,
) -> list[tuple[T | None, str]]:
    """The result for each image, read at each of the (shorter, longest) sides, over all processes;
    or None and the reason why the image cannot be read. Raises NonFiniteValues, in all processes.
    """

    def read(i: int) -> list[ResizedImage]:
        return [load_image(dataset.examples[i].path, *limits) for limits in sides]

    n, failure = len(dataset.examples), None
    share = world.shard(n)
    results: list[tuple[int, T | None, str]] = []
    waiting = read_ahead(read, share, workers, 2 * max(workers, 1))
    for i, images in zip(share, waiting, strict=True):
        try:
            results.append((i, compute(images()), ""))
        except (DamagedImage, FileNotFoundError) as error:
            results.append((i, None, str(error)))
        except NonFiniteValues as error:
            failure = error
            break
        progress(min(len(results) * world.size, n), n)
    world.raise_any(failure)
    ordered = sorted(world.all_gather(results), key=itemgetter(0))
    return [(result, reason) for _, result, reason in ordered]


def batch_places(n: int, recipe: DetectionRecipe, step: int, world: World) -> Iterator[BatchPlace]:
    """This process's part of the batch of a step, over a data set of n images."""
    for position in range(recipe.batch):
        if position * world.size // recipe.batch == world.rank:
            epoch, i = divmod(step * recipe.batch + position, n)
            yield position, epoch, int(permutation(recipe.seed, epoch, n)[i])


@dataclass
class TrainingLoader:
    """The batches of a training; only this process's part of each."""

    dataset: DetectionDataset
    recipe: DetectionRecipe
    preprocessing: Preprocessing  # on the device
    device: torch.device
    world: World = field(default_factory=World)
    workers: int = 2
    damaged: dict[str, str] = field(default_factory=dict)  # path: reason
    # Region proposals (P, 4) by the index of the image, in resized pixels; None: the network's own.
    proposals: dict[str, Tensor] | None = None

    def batches(self, step: int = 0) -> Iterator[list[Sample]]:
        """Endless batches after `step` steps. Raises DamagedImage unless the recipe skips damaged
        images."""
        n, size = len(self.dataset.examples), self.recipe.batch // self.world.size
        steps = (batch_places(n, self.recipe, s, self.world) for s in count(step))
        results = read_ahead(self.read, chain.from_iterable(steps), self.workers, AHEAD * size)
        for batch in zip(*[results] * size, strict=False):  # `size` at a time
            yield [self.sample(*result()) for result in batch]

    def read(self, place: BatchPlace) -> tuple[BatchPlace, int, ResizedImage]:
        """The image of a place, or the next one that is not damaged, with its index."""
        examples, i = self.dataset.examples, place[-1]
        for _ in range(len(examples)):
            path = examples[i].path
            try:
                return place, i, load_image(path, self.recipe.shorter, self.recipe.longest)
            except (DamagedImage, FileNotFoundError) as error:
                if self.recipe.bad_images == "error":
                    raise
                self.damaged[str(path)] = str(error)
                check_damage_budget(len(self.damaged), len(examples), str(path))
            i = (i + 1) % len(examples)
        raise DamagedImage(f"no picture of {self.dataset.name} can be read")

    def sample(self, place: BatchPlace, i: int, picture: ResizedImage) -> Sample:
        """The image of index i and its objects, on the device."""
        position, epoch, image_id = place
        example = self.dataset.examples[i]
        # Choice: difficult objects and crowds are not training targets, as in the published code;
        # regions on them may be background.
        easy = ~example.difficult
        boxes, labels = example.boxes[easy] * picture.scale, example.labels[easy]
        regions = None
        if self.proposals is not None:
            regions = torch.cat([self.proposals.get(str(i), boxes[:0]), boxes])
        image = normalize(picture, self.preprocessing, self.device)
        if self.recipe.mirror and randint(2, self.recipe.seed, epoch, image_id, MIRROR_DRAW):
            image, boxes = image.flip(-1), flip(boxes, image.shape[2])
            regions = None if regions is None else flip(regions, image.shape[2])
        return Sample(
            image,
            boxes.to(self.device),
            labels.to(self.device),
            (epoch, image_id),
            position,
            None if regions is None else regions.to(self.device),
            picture.scale,
        )
