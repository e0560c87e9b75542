"""Arithmetic of boxes (N, 4): left, top, right, bottom, in pixels from the left upper corner."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Choice: a box never becomes more than 62.5 times as wide or high as its anchor, so that a wild
# guess of an untrained network is no infinite box; the bound is that of the usual libraries.
WIDEST = math.log(1000 / 16)


def centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (..., 2) and sizes (..., 2) of boxes (..., 4)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (N, 4) as seen from anchors (N, 4): shifts of the centre in sizes of the anchor, and
    logarithms of how much wider and higher (R-CNN, Girshick et al. 2014)."""
    centre, size = centred(boxes)
    own_centre, own_size = centred(anchors)
    return torch.cat([(centre - own_centre) / own_size, (size / own_size).log()], dim=-1)


def decoded(shifts: Tensor, anchors: Tensor) -> Tensor:
    """The boxes (..., 4) that `encoded` made shifts (..., 4) of."""
    own_centre, own_size = centred(anchors)
    centre = own_centre + shifts[..., :2] * own_size
    half = own_size * shifts[..., 2:].clamp(max=WIDEST).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4), cut off at the border of a picture."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def mirrored(boxes: Tensor, width: int | float) -> Tensor:
    """Boxes (N, 4) of a picture of this width, as they lie on its mirror."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4): (N, M)."""
    from torchvision.ops import box_iou  # takes most of a second to import

    found: Tensor = box_iou(boxes, others)
    return found


def suppressed(boxes: Tensor, scores: Tensor, limit: float) -> Tensor:
    """Places (K,) of the boxes (N, 4) that stay, the best first, when of two that overlap by more
    than the limit the one with the lower score goes."""
    from torchvision.ops import nms

    kept: Tensor = nms(boxes, scores, limit)
    return kept


def suppressed_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, limit: float) -> Tensor:
    """The same among the boxes of each label (N,) by themselves."""
    from torchvision.ops import batched_nms

    kept: Tensor = batched_nms(boxes, scores, labels, limit)
    return kept


def voted(boxes: Tensor, others: Tensor, scores: Tensor, limit: float = 0.5) -> Tensor:
    """Boxes (N, 4), each the mean of all others (M, 4) of its class that overlap it by at least the
    limit, weighted by their scores (M,) (box voting, Gidaris and Komodakis 2015)."""
    weights = (overlaps(boxes, others) >= limit) * scores.clamp(min=0)  # (N, M)
    total = weights.sum(dim=1, keepdim=True)
    # A product of matrices would be rounded where precision is mixed, as the rest is not.
    sums = (weights[:, :, None] * others).sum(dim=1)
    return torch.where(total > 0, sums / total.clamp(min=1e-12), boxes)


STRIDE = 16  # pixels between two places of the last shared map: conv4_x, or conv5_3 of VGG-16
RATIOS = (0.5, 1.0, 2.0)  # heights in widths


# Choice: an anchor's area is exactly its scale squared, around the middle of its 16x16 pixels; the
# published code rounds sides to whole pixels first.
def shapes(scales: Sequence[int]) -> Tensor:
    """Anchors (A, 4) around the origin, of these square roots of areas, in each of three shapes."""
    sides = [(scale * ratio**-0.5, scale * ratio**0.5) for ratio in RATIOS for scale in scales]
    halves = torch.tensor(sides) / 2
    return torch.cat([-halves, halves], dim=1)


def anchors(rows: int, columns: int, scales: Sequence[int], device: torch.device) -> Tensor:
    """Those of a map of rows and columns: (rows columns A, 4), place by place."""
    y = (torch.arange(rows, device=device) + 0.5) * STRIDE
    x = (torch.arange(columns, device=device) + 0.5) * STRIDE
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (places + shapes(scales).to(device)).view(-1, 4)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which of the boxes (N, 4) do not cross the border of a picture: (N,) bool."""
    left, top, right, bottom = boxes.unbind(-1)
    return (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)


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


@dataclass(frozen=True)
class Detections:
    """The objects that a detector finds on an image, the best first."""

    boxes: Tensor  # (N, 4) float32
    scores: Tensor  # (N,) probabilities
    labels: Tensor  # (N,) int64
