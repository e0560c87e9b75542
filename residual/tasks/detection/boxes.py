"""Boxes: encoding, anchors, region proposals and box voting.

Boxes are (..., 4): left, top, right, bottom in pixels, see annotations.py. torchvision.ops takes
seconds to import, so functions import it when they need it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Choice: a box becomes at most 62.5 times as wide or high as its anchor, the bound of torchvision
# and detectron2, so that an untrained network predicts no infinite box.
MAX_LOG_SCALE = math.log(1000 / 16)
STRIDE = 16  # pixels between two places of the last shared map: conv4_x, or conv5_3 of VGG-16
RATIOS = (0.5, 1.0, 2.0)  # heights of anchors in widths
PROPOSAL_NMS = 0.7  # IoU above which the worse of two proposals is dropped
UNSCALED = torch.ones(4)  # the scale of an image that is not resized


@dataclass(frozen=True)
class Detections:
    """The objects that a detector finds on an image, the best first."""

    boxes: Tensor  # (N, 4) float32
    scores: Tensor  # (N,) probabilities
    labels: Tensor  # (N,) int64


def centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centers (..., 2) and sizes (..., 2) of boxes (..., 4)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The deltas (N, 4) from anchors to boxes: shifts of the center in sizes of the anchor, and
    logarithms of the ratios of the sizes (R-CNN, Girshick et al. 2014)."""
    centers, sizes = centers_and_sizes(boxes)
    anchor_centers, anchor_sizes = centers_and_sizes(anchors)
    return torch.cat([(centers - anchor_centers) / anchor_sizes, (sizes / anchor_sizes).log()], -1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The boxes (..., 4) of deltas (..., 4) from anchors: the inverse of `encode`."""
    anchor_centers, anchor_sizes = centers_and_sizes(anchors)
    centers = anchor_centers + deltas[..., :2] * anchor_sizes
    halves = anchor_sizes * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() / 2
    return torch.cat([centers - halves, centers + halves], dim=-1)


def flip(boxes: Tensor, width: int | float) -> Tensor:
    """Boxes (N, 4) of an image of this width -> the same on the mirrored image."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def vote(boxes: Tensor, others: Tensor, scores: Tensor) -> Tensor:
    """Boxes (N, 4), each replaced by the mean of all others (M, 4) of its class with an IoU of at
    least 0.5, weighted by their scores (M,) (box voting, Gidaris and Komodakis 2015)."""
    from torchvision.ops import box_iou

    weights = (box_iou(boxes, others) >= 0.5) * scores.clamp(min=0)  # (N, M)
    total = weights.sum(dim=1, keepdim=True)
    # A product of matrices would be rounded where precision is mixed, as the rest is not.
    sums = (weights[:, :, None] * others).sum(dim=1)
    return torch.where(total > 0, sums / total.clamp(min=1e-12), boxes)


# ---- anchors and proposals ----------------------------------------------------------------------


# Choice: an anchor's area is exactly its scale squared, around the middle of its 16x16 pixels; the
# published code rounds sides to whole pixels first.
def base_anchors(scales: Sequence[int]) -> Tensor:
    """Anchors (A, 4) around the origin: each scale (the square root of the area) in each ratio."""
    sides = [(scale * ratio**-0.5, scale * ratio**0.5) for ratio in RATIOS for scale in scales]
    halves = torch.tensor(sides) / 2
    return torch.cat([-halves, halves], dim=1)


def grid_anchors(features: Tensor, scales: Sequence[int]) -> Tensor:
    """The anchors of features (N, C, H, W), place by place: (H W A, 4)."""
    device = features.device
    ys, xs = ((torch.arange(n, device=device) + 0.5) * STRIDE for n in features.shape[2:])
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    centers = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (centers + base_anchors(scales).to(device)).view(-1, 4)


def top_anchors(
    scores: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int], n: int
) -> tuple[Tensor, Tensor]:
    """The boxes (n, 4) and logits (n,) of the n anchors most likely to be objects, best first.

    Of all anchors (A, 4), with scores (A, 2) for background and object and deltas (A, 4), in an
    image of this (height, width). The sigmoid of a logit is the probability of an object.
    """
    from torchvision.ops import clip_boxes_to_image

    # Probabilities would be equal where they round to 1. Of equal ones the first is the better, so
    # that the same scores are the same proposals with every kernel, and elsewhere.
    logits = scores[:, 1].float() - scores[:, 0].float()
    top, which = (result[:n] for result in logits.sort(descending=True, stable=True))
    boxes = decode(deltas[which].float(), anchors[which].float())
    return clip_boxes_to_image(boxes, size), top


def filter_proposals(
    boxes: Tensor, logits: Tensor, n: int, smallest: int, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The best n of boxes (K, 4) by their logits (K,), after NMS: the region proposals, the best
    first. Their sides are at least `smallest` pixels of the image before it was resized by `scale`
    (4,), as `RPN_MIN_SIZE` of the published code."""
    from torchvision.ops import nms

    # Deviation: the best anchors are selected before small boxes are removed, so that fewer remain;
    # the published code (py-faster-rcnn) removes small boxes first. It matters only if there are
    # more anchors than candidates.
    widths, heights = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    min_width, min_height = (scale[:2] * smallest).tolist()
    large = (widths >= min_width) & (heights >= min_height)
    boxes, logits = boxes[large], logits[large]
    keep = nms(boxes, logits, PROPOSAL_NMS)[:n]
    return boxes[keep], logits[keep]


def merge_proposals(proposals: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """The union (P, 4) of the proposals of several networks (App. B), after NMS."""
    from torchvision.ops import nms

    if len(proposals) == 1:
        return proposals[0][0]
    # Choice: the ensemble merges proposals by NMS at an IoU of 0.7, as for one network; the paper
    # says "the union".
    boxes, scores = (torch.cat(parts) for parts in zip(*proposals, strict=True))
    merged: Tensor = boxes[nms(boxes, scores, PROPOSAL_NMS)[:n]]
    return merged
