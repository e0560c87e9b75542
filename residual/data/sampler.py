"""The image indices of each batch, the order of an epoch, and class balance."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from residual.data.rng import keyed_hash, permutation
from residual.distributed import SINGLE_PROCESS, World

COPY_STRIDE = 2**32  # added to the epoch for each copy of an image, which gets draws of its own
WITHIN, AMONG = 600, 601  # draws: of the order in a class, and of the order of all


@dataclass(frozen=True)
class DataConfig:
    """The recipe's fields that decide which images a batch holds and how they are augmented."""

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


@lru_cache(maxsize=4)  # all batches of an epoch ask for the same order of the same tensor
def epoch_order(labels: Tensor, config: DataConfig, epoch: int) -> tuple[Tensor, Tensor]:
    """The order (n,) of the images in an epoch, and the epoch (n,) that keys the draws of each:
    a repeated image gets other draws."""
    if config.balance == "sampler":
        ids = balanced_order(labels, config.seed, epoch)
        return ids, epoch + COPY_STRIDE * copy_numbers(ids)
    ids = permutation(config.seed, epoch, len(labels), labels.device, config.block)
    return ids, torch.full_like(ids, epoch)


def batch_indices(
    labels: Tensor, config: DataConfig, step: int, world: World = SINGLE_PROCESS
) -> tuple[Tensor, Tensor]:
    """This process's part of the batch after `step` steps: the images, and the epoch that keys the
    draws of each.

    Epochs follow one another without a gap: each image comes once in each, and a batch may hold
    the end of one and the beginning of the next. So no batch is short, and a small set will do.
    Repeated augmentation (Hoffer et al. 2020): a batch holds each of its images several times, so
    far apart that no norm group holds one twice.
    """
    # Choice: torchvision's epoch ends after as many images as the set has: it has a fourth of them
    # four times. We continue, so that four epochs have each exactly four times.
    distinct = config.batch // config.repeats
    start, n = step * distinct, len(labels)
    stop = start + distinct
    ids: list[Tensor] = []
    epochs: list[Tensor] = []
    while start < stop:
        epoch, first = divmod(start, n)
        last = min(n, first + stop - start)
        order, keys = epoch_order(labels, config, epoch)
        ids.append(order[first:last])
        epochs.append(keys[first:last])
        start += last - first
    copies = torch.arange(config.repeats, device=labels.device).repeat_interleave(distinct)
    local_batch = config.batch // world.size
    part = slice(world.rank * local_batch, (world.rank + 1) * local_batch)
    batch_epochs = torch.cat(epochs).repeat(config.repeats) + COPY_STRIDE * copies
    return torch.cat(ids).repeat(config.repeats)[part], batch_epochs[part]


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """The n images of an epoch, of labels (n,), with an equal share for each class.

    Images of a small class come several times, and some of a large class do not come; inside a
    class no image comes more than once more than another. The remainder of the division goes to
    other classes in the next epoch.
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
    """For each place (n,), how often its image comes before."""
    by_image = ids.argsort(stable=True)
    _, counts = torch.unique(ids, return_counts=True)
    place = torch.arange(len(ids), device=ids.device)
    earlier = place - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.empty_like(ids).scatter_(0, by_image, earlier)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Loss weights (classes,) inverse to the number of images, of mean 1 over images; 0 for a class
    without images."""
    counts = torch.bincount(labels, minlength=classes)
    weights = len(labels) / (counts.double() * (counts > 0).sum())
    return weights.where(counts > 0, 0.0).float()
