"""Pictures with boxes as a detector takes them: resized, mirrored, in keyed order, read ahead."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from residual.data.decode import DamagedImage, resize, to_tensor
from residual.data.decode import open_image as seen_picture
from residual.data.loader import IMAGENET_MEAN, IMAGENET_STD
from residual.data.preprocessing import Preprocessing
from residual.data.rng import permutation, randint
from residual.distributed import World
from residual.tasks.detection.annotations import read_header
from residual.tasks.detection.boxes import STRIDE, mirrored
from residual.tasks.detection.datasets import DetectionDataset, Example
from residual.tasks.detection.losses import Sample
from residual.tasks.detection.recipe import Recipe

SOME = 200  # pictures say how large objects are
AHEAD = 2  # steps whose pictures are read while one is taken
MIRROR = 2  # the draw, beside those of learning.py
# Of the pictures of a set, so many may be damaged where damaged ones are skipped, or one: as each
# process counts those that it has met.
BUDGET = 0.001


def median_side(scenes: DetectionDataset, recipe: Recipe) -> float:
    """Of the objects of a split, the middle one's square root of its area, in pixels of pictures of
    the recipe's shorter side; as if no picture were longer than it may be. 0 without objects."""
    sides = []
    for example in scenes.examples[:SOME]:
        if not len(example.boxes):
            continue
        width, height = read_header(example.path).upright
        size = (example.boxes[:, 2:] - example.boxes[:, :2]).prod(dim=1).sqrt()
        sides.append(size * recipe.shorter / min(width, height))
    return float(torch.cat(sides).median()) if sides else 0.0


@dataclass(frozen=True)
class Seen:
    """A picture in the size in which a detector looks at it."""

    pixels: Tensor  # (3, H, W) uint8
    factors: Tensor  # (4,): what its own coordinates are multiplied by

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]


def fitted(size: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side is made so many pixels, unless the longer one
    then had too many, and is made that."""
    # Choice: a longest side for 600 pixels grows and shrinks with the shorter side that is asked
    # for, so that a picture keeps its proportions at every scale.
    short, long = sorted(size)
    ends = shorter, int(shorter * long / short)
    if ends[1] > longest:
        ends = int(longest * short / long), longest
    ends = max(ends[0], STRIDE), max(ends[1], STRIDE)  # one place of the map at least
    return ends if size[0] <= size[1] else ends[::-1]


def seen(source: Path | bytes, shorter: int, longest: int) -> Seen:
    """A picture as a detector looks at it. Raises Damaged and FileNotFoundError."""
    image = seen_picture(source)
    width, height = fitted(image.size, shorter, longest)
    x, y = width / image.size[0], height / image.size[1]
    small = resize(image, (height, width))
    return Seen(to_tensor(small), torch.tensor([x, y, x, y]))


def imagenet_preprocessing(shorter: int, pixel_range: int = 1) -> Preprocessing:
    """For a training from scratch; a network that takes pixels of 0 to 255 gets them so."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    if pixel_range > 1:
        std = torch.full_like(std, 1 / pixel_range)
    return Preprocessing(mean, std, (shorter, shorter), shorter)


def input_of(seen: Seen, before: Preprocessing, device: torch.device) -> Tensor:
    """(3, H, W), normalised, on the device."""
    return before(seen.pixels.to(device)[None])[0]


def places(n: int, recipe: Recipe, step: int, world: World) -> Iterator[tuple[int, int, int]]:
    """Of a step over a set of n pictures, this process's part: the place in the batch, the epoch,
    and the picture's place in the set."""
    for place in range(recipe.batch):
        if place * world.size // recipe.batch == world.rank:
            epoch, at = divmod(step * recipe.batch + place, n)
            yield place, epoch, int(permutation(recipe.seed, epoch, n)[at])


@dataclass
class Supply:
    """Batches of a training, from the one after `step` steps on; only this process's part."""

    scenes: DetectionDataset
    recipe: Recipe
    before: Preprocessing  # on the device
    device: torch.device
    world: World = field(default_factory=World)
    workers: int = 2
    damaged: dict[str, str] = field(default_factory=dict)  # path: why
    # Of a picture, by its place in the set, the regions (P, 4) that it teaches with; in resized
    # pixels. None: the network's own proposals.
    proposals: dict[int, Tensor] | None = None

    def batches(self, step: int = 0) -> Iterator[list[Sample]]:
        """Endless. Raises Damaged, naming the picture, unless damaged ones are skipped."""
        n = len(self.scenes.examples)
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            waiting: deque[list[tuple[int, int, int, Future[tuple[int, Seen]]]]] = deque()
            while True:
                while len(waiting) <= AHEAD:
                    own = places(n, self.recipe, step + len(waiting), self.world)
                    waiting.append([(*each, pool.submit(self.read, each[2])) for each in own])
                yield [
                    self.sample(place, epoch, i, *coming.result())
                    for place, epoch, i, coming in waiting.popleft()
                ]
                step += 1

    def read(self, i: int) -> tuple[int, Seen]:
        """A picture, or the next one that is whole, with its place in the set."""
        examples = self.scenes.examples
        for _ in range(len(examples)):
            example = examples[i]
            try:
                return i, seen(example.path, self.recipe.shorter, self.recipe.longest)
            except (DamagedImage, FileNotFoundError) as error:
                if self.recipe.bad_images == "error":
                    raise
                self.damaged[str(example.path)] = str(error)
                if len(self.damaged) > max(1, BUDGET * len(examples)):
                    raise DamagedImage(
                        f"{len(self.damaged)} of {len(examples)} pictures are damaged, more than "
                        f"are skipped; the last is {example.path}"
                    ) from error
            i = (i + 1) % len(examples)
        raise DamagedImage(f"no picture of {self.scenes.name} can be read")

    def sample(self, place: int, epoch: int, asked: int, i: int, picture: Seen) -> Sample:
        """The picture that was read for the one asked for, and its objects, on the device."""
        objects = learned(self.scenes.examples[i])
        boxes, regions = objects.boxes * picture.factors, None
        if self.proposals is not None:
            regions = torch.cat([self.proposals.get(i, boxes[:0]), boxes])
        image = input_of(picture, self.before, self.device)
        if self.recipe.mirror and randint(2, self.recipe.seed, epoch, asked, MIRROR):
            image, boxes = image.flip(-1), mirrored(boxes, picture.size[1])
            regions = None if regions is None else mirrored(regions, picture.size[1])
        labels = objects.labels.to(self.device)
        regions = None if regions is None else regions.to(self.device)
        key = epoch, asked
        return Sample(image, boxes.to(self.device), labels, key, place, regions, picture.factors)


def learned(example: Example) -> Example:
    """Without the objects that are neither right nor wrong to find."""
    # Choice: difficult objects and crowds teach nothing, as in the published code: they are no
    # objects, and regions on them may be background.
    keep = ~example.difficult
    return replace(
        example,
        boxes=example.boxes[keep],
        labels=example.labels[keep],
        difficult=example.difficult[keep],
    )
