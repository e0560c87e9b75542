"""Proposals: the regions that the region proposal network takes for objects."""

import torch
from torch import Tensor

from residual.detection.boxes import clipped, decoded, suppressed

OVERLAP = 0.7  # above which the worse of two proposals goes


def proposals(
    scores: Tensor,
    shifts: Tensor,
    anchors: Tensor,
    size: tuple[int, int],
    candidates: int,
    remaining: int,
    smallest: int,
) -> tuple[Tensor, Tensor]:
    """Scores (A, 2) and shifts (A, 4) of anchors (A, 4) -> boxes (P, 4), the best first, and their
    probabilities (P,). The size is the picture's height and width."""
    objectness = scores.float().softmax(dim=-1)[:, 1]
    # Of equal ones the first is the better: the same proposals from every kernel, and elsewhere.
    best, which = (each[:candidates] for each in objectness.sort(descending=True, stable=True))
    boxes = clipped(decoded(shifts[which].float(), anchors[which].float()), *size)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= smallest).all(dim=1)
    boxes, best = boxes[large], best[large]
    stay = suppressed(boxes, best, OVERLAP)[:remaining]
    return boxes[stay], best[stay]


def merged(found: list[tuple[Tensor, Tensor]], remaining: int) -> Tensor:
    """The union of several networks' proposals (App. B), without those that overlap: (P, 4)."""
    if len(found) == 1:
        return found[0][0]
    boxes, scores = (torch.cat(each) for each in zip(*found, strict=True))
    return boxes[suppressed(boxes, scores, OVERLAP)[:remaining]]
