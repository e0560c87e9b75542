"""Samplers: the images of each batch, their order in an epoch, and class balance."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from residual.data.rng import keyed_hash, permutation
from residual.distributed import SINGLE_PROCESS, World

COPY_STRIDE = 2**32  # added to the epoch for each copy, so that each has draws of its own

WITHIN, AMONG = 600, 601  # draws: of the order in a class, and of the order of all places


@dataclass(frozen=True)
class DataConfig:
    """How training images are drawn and altered: fields of the recipe, by the same names."""

    batch: int
    seed: int
    norm_group: int = 1
    crop: str = "pad"
    padding: int = 4
    size: int = 224
    scales: tuple[int, int] = (256, 480)
    mirror: bool = True
    colour: float = 0.0
    trivial: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    balance: str = "none"
    bad_images: str = "error"
    block: int = 0
    repeats: int = 1


@lru_cache(maxsize=4)  # one epoch's batches ask for the same order, of one and the same tensor
def epoch_order(labels: Tensor, how: DataConfig, epoch: int) -> tuple[Tensor, Tensor]:
    """The order (n,) in which an epoch visits the images, and the epoch (n,) that keys the draws of
    each: where an image comes again, the next one has draws of its own."""
    if how.balance == "sampler":
        ids = balanced_order(labels, how.seed, epoch)
        return ids, epoch + COPY_STRIDE * copy_numbers(ids)
    ids = permutation(how.seed, epoch, len(labels), labels.device, how.block)
    return ids, torch.full_like(ids, epoch)


def batch_indices(
    labels: Tensor, how: DataConfig, step: int, world: World = SINGLE_PROCESS
) -> tuple[Tensor, Tensor]:
    """The images of the batch after `step` steps, and the epoch that keys the draws of each: this
    process's part.

    Epochs follow one another without a gap: each image comes once in each, and a batch may hold
    the end of one and the beginning of the next. So no batch is short, and a small set will do.
    Repeated augmentation (Hoffer et al. 2020): a batch may hold each of its images several times,
    so far apart that a norm group holds none twice.
    """
    # Choice: torchvision starts a new order after as many images as the set has, so that an epoch
    # sees a fourth of them four times; we go on, so that four epochs see each exactly four times.
    unlike = how.batch // how.repeats
    start, n = step * unlike, len(labels)
    stop = start + unlike
    ids: list[Tensor] = []
    epochs: list[Tensor] = []
    while start < stop:
        epoch, first = divmod(start, n)
        last = min(n, first + stop - start)
        for own, part in zip((ids, epochs), epoch_order(labels, how, epoch), strict=True):
            own.append(part[first:last])
        start += last - first
    again = torch.arange(how.repeats, device=labels.device).repeat_interleave(unlike)
    every = (
        torch.cat(ids).repeat(how.repeats),
        torch.cat(epochs).repeat(how.repeats) + COPY_STRIDE * again,
    )
    share = how.batch // world.size
    own_part = slice(world.rank * share, (world.rank + 1) * share)
    return every[0][own_part], every[1][own_part]


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """An epoch's images (n,), of labels (n,): each class that has images gets an equal share.

    Of a small class each image comes several times, of a large one some images do not come at all;
    inside a class no image comes more than once more than another. What does not divide evenly
    goes to other classes in the next epoch.
    """
    present, counts = torch.unique(labels, return_counts=True)
    share, rest = divmod(len(labels), len(present))
    turn = torch.arange(len(present), device=labels.device) - epoch * rest
    quotas = share + (turn % len(present) < rest).long()  # (classes,), of sum n
    images = torch.arange(len(labels), device=labels.device)
    shuffled = keyed_hash(seed, epoch, images, WITHIN).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]  # class after class
    firsts, starts = counts.cumsum(0) - counts, quotas.cumsum(0) - quotas
    place = images - starts.repeat_interleave(quotas)  # 0, 1, 2, ... in each class
    ids = by_class[firsts.repeat_interleave(quotas) + place % counts.repeat_interleave(quotas)]
    return ids[keyed_hash(seed, epoch, images, AMONG).argsort(stable=True)]


def copy_numbers(ids: Tensor) -> Tensor:
    """For each place (n,) how often its image came before; copies must not get equal draws."""
    by_image = ids.argsort(stable=True)
    _, counts = torch.unique(ids, return_counts=True)
    place = torch.arange(len(ids), device=ids.device)
    earlier = place - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.empty_like(ids).scatter_(0, by_image, earlier)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """The weight (classes,) of each class's images, inverse to their number; of mean 1 over images.

    A class without images weighs nothing.
    """
    counts = torch.bincount(labels, minlength=classes)
    weights = len(labels) / (counts.double() * (counts > 0).sum())
    return weights.where(counts > 0, 0.0).float()
