"""Classes of unequal size: an order that shows them equally often, or weights that do."""

import torch
from torch import Tensor

from residual.data.rng import hashed

WITHIN, AMONG = 600, 601  # draws: of the order in a class, and of the order of all places


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
    shuffled = hashed(seed, epoch, images, WITHIN).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]  # class after class
    firsts, starts = counts.cumsum(0) - counts, quotas.cumsum(0) - quotas
    place = images - starts.repeat_interleave(quotas)  # 0, 1, 2, ... in each class
    ids = by_class[firsts.repeat_interleave(quotas) + place % counts.repeat_interleave(quotas)]
    return ids[hashed(seed, epoch, images, AMONG).argsort(stable=True)]


def copies(ids: Tensor) -> Tensor:
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
