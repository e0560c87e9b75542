"""Batches of photographs: cut by worker processes, everything else in bulk on the device."""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residual.data.batches import ALONE, Drawing, Preprocessing, chosen
from residual.data.crops import AspectCrop, Cut, ScaleCrop
from residual.data.decode import Damaged
from residual.data.draws import order
from residual.data.finishing import finishing
from residual.data.mixing import mixed
from residual.data.photographs import Photographs
from residual.data.progress import Progress, unhurried
from residual.data.trivial import TrivialAugment
from residual.data.views import Crops
from residual.data.workers import TASK, Done, read, tasks_of
from residual.world import World

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
