"""Proposals: the regions that the region proposal network takes for objects."""

import torch
from torch import Tensor

from residual.detection.boxes import clipped, decoded, suppressed

OVERLAP = 0.7  # above which the worse of two proposals goes
UNRESIZED = torch.ones(4)  # the factors of a picture in its own size


def best_first(
    scores: Tensor, shifts: Tensor, anchors: Tensor, size: tuple[int, int], candidates: int
) -> tuple[Tensor, Tensor]:
    """Scores (A, 2) and shifts (A, 4) of anchors (A, 4), in a picture of this (height, width) ->
    the boxes (K, 4) of the best anchors, and by how much each scores higher as an object than as
    background (K,); the logistic function makes a probability of that."""
    # Probabilities would be equal where they round to 1. Of equal ones the first is the better, so
    # that the same scores are the same proposals with every kernel, and elsewhere.
    ahead = scores[:, 1].float() - scores[:, 0].float()
    best, which = (each[:candidates] for each in ahead.sort(descending=True, stable=True))
    return clipped(decoded(shifts[which].float(), anchors[which].float()), *size), best


def apart(
    boxes: Tensor, ahead: Tensor, remaining: int, least: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Of boxes (K, 4) and what they are ahead by (K,), those of at least this size and, of
    some that overlap, the best: the proposals, the best first."""
    # Deviation: the best anchors are chosen before small boxes are left out, so that fewer remain;
    # the published code (py-faster-rcnn) leaves them out first. It matters only where there are
    # more anchors than candidates.
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    large = (width >= least[0]) & (height >= least[1])
    boxes, ahead = boxes[large], ahead[large]
    stay = suppressed(boxes, ahead, OVERLAP)[:remaining]
    return boxes[stay], ahead[stay]


def least_sides(smallest: int, factors: Tensor) -> tuple[float, float]:
    """The least width and height of a proposal in a picture that was resized by factors (4,): of
    so many pixels of the picture itself, as `RPN_MIN_SIZE` of the published code is."""
    width, height = (factors[:2] * smallest).tolist()
    return width, height


def merged(found: list[tuple[Tensor, Tensor]], remaining: int) -> Tensor:
    """The union of several networks' proposals (App. B), without those that overlap: (P, 4)."""
    if len(found) == 1:
        return found[0][0]
    # Choice: of proposals of two networks that overlap by more than 0.7 the better one stays, as of
    # those of one; the paper says "the union".
    boxes, scores = (torch.cat(each) for each in zip(*found, strict=True))
    return boxes[suppressed(boxes, scores, OVERLAP)[:remaining]]
