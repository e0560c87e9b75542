"""Which anchors and regions learn what: matched with the objects of a picture, then sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from residual.data.draws import hashed
from residual.detection.boxes import overlaps

BACKGROUND, IGNORED = -1, -2


@dataclass(frozen=True)
class Limits:
    """From which overlap on a box is an object's, and between which it is background."""

    object: float
    background: tuple[float, float]  # at least, and less than
    best: bool = False  # the best boxes of each object are its own, however little they overlap


def matched(boxes: Tensor, objects: Tensor, limits: Limits) -> Tensor:
    """Of each of the boxes (N, 4) the place of its object among (M, 4), or BACKGROUND, or IGNORED:
    (N,)."""
    if not len(objects):
        least = limits.background[0] <= 0
        return torch.full((len(boxes),), BACKGROUND if least else IGNORED, device=boxes.device)
    shared = overlaps(boxes, objects)  # (N, M)
    most, which = shared.max(dim=1)
    low, high = limits.background
    found = torch.full_like(which, IGNORED)
    found[(most >= low) & (most < high)] = BACKGROUND
    found = torch.where(most >= limits.object, which, found)
    if limits.best and len(boxes):
        best = shared.amax(dim=0)
        own = ((shared == best) & (best > 0)).any(dim=1)
        found = torch.where(own, which, found)
    return found


def sampled(matches: Tensor, count: int, objects: int, *key: int) -> Tensor:
    """Places (n,) of at most so many boxes, of which at most so many belong to objects and the
    others are background. The draw is a function of the key and of each box's place."""
    draw = hashed(*key, torch.arange(len(matches), device=matches.device))
    order = draw.argsort(stable=True)
    of_objects = order[matches[order] >= 0][:objects]
    of_background = order[matches[order] == BACKGROUND][: count - len(of_objects)]
    return torch.cat([of_objects, of_background])
