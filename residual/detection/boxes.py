"""Arithmetic of boxes (N, 4): left, top, right, bottom, in pixels from the left upper corner."""

import math

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
