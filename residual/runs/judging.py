"""A network in training, looked at by the single view of each image (Sec. 3.4, 4.2)."""

import torch
from torch import Tensor

from residual.data.images import Set
from residual.data.photographs import Photographs
from residual.evaluation.errors import Count, confusion, count
from residual.evaluation.protocols import PROTOCOLS
from residual.runs.answering import Judged, Work, answers, unread


def judged(net: Judged, images: Set, classes: int, work: Work) -> tuple[Count, Tensor, list[str]]:
    """The error on a set, the confusion matrix behind it, and the pictures that are damaged, on any
    number of processes."""
    found, labels = answers([net], images, PROTOCOLS["1crop"], work), images.labels.cpu()
    damaged, lost = [path for path, _ in images.damaged], unread(found)
    total = count(found, labels, damaged=len(damaged))
    if isinstance(images, Photographs):
        damaged += [images.name(i) for i in lost.tolist()]
    there = torch.ones(len(labels), dtype=torch.bool).index_fill(0, lost, False)
    return total, confusion(found[there, 0], labels[there], classes), damaged
