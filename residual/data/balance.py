"""Classes of unequal size: how often their images come, or how much each counts."""

import torch
from torch import Tensor

from residual.data.draws import order


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """An epoch (n,) in which each class has an equal share of the places.

    Over the epochs the images of a class follow one another in rounds, each once in a round.
    """
    n, classes = len(labels), torch.unique(labels)
    ids = []
    for k, label in enumerate(classes):
        own = torch.nonzero(labels == label).flatten()
        share = n * (k + 1) // len(classes) - n * k // len(classes)
        first = epoch * share
        rounds = range(first // len(own), (first + share) // len(own) + 1)
        key = seed + 1 + int(label)
        drawn = torch.cat([own[order(key, r, len(own), own.device)] for r in rounds])
        begin = first - first // len(own) * len(own)
        ids.append(drawn[begin : begin + share])
    return torch.cat(ids)[order(seed, epoch, n, labels.device)]


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """The weight of each class (classes,) in the loss; its mean over the images is 1."""
    counts = labels.bincount(minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts.float())
