"""The four losses of Faster R-CNN: the proposal network's and the region head's."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.data.rng import keyed_hash
from residual.tasks.detection.boxes import UNSCALED, encode
from residual.tasks.detection.recipe import DetectionRecipe

LOSSES = ("objectness_loss", "anchor_loss", "class_loss", "box_loss")
BACKGROUND, IGNORED = -1, -2
BOX_STD = (0.1, 0.1, 0.2, 0.2)  # by which the deltas of regions are divided
ANCHOR_DRAW, REGION_DRAW = range(2)  # draws of the keyed randomness


@dataclass(frozen=True)
class Sample:
    """A training image with its objects, on its device."""

    image: Tensor  # (3, H, W), normalized
    boxes: Tensor  # (M, 4) of the objects, in its pixels
    labels: Tensor  # (M,)
    key: tuple[int, int]  # epoch and index of the image in the data set
    position: int = 0  # in the batch, over all processes
    regions: Tensor | None = None  # (R, 4) in place of the network's own proposals
    scale: Tensor = UNSCALED  # (4,), on the CPU: by which the image was resized


def match(
    boxes: Tensor,
    objects: Tensor,
    object_iou: float,
    background: tuple[float, float],
    best_match: bool = False,
) -> Tensor:
    """For each of the boxes (N, 4) the index of its object among (M, 4), or BACKGROUND, or IGNORED:
    (N,). A box is an object's from `object_iou` on, and with `best_match` also if it is the best
    box of the object; it is background in a range of IoUs: at least, and less than."""
    from torchvision.ops import box_iou

    low, high = background
    if not len(objects):
        return torch.full((len(boxes),), BACKGROUND if low <= 0 else IGNORED, device=boxes.device)
    iou = box_iou(boxes, objects)  # (N, M)
    max_iou, best_object = iou.max(dim=1)
    matches = torch.full_like(best_object, IGNORED)
    matches[(max_iou >= low) & (max_iou < high)] = BACKGROUND
    matches = torch.where(max_iou >= object_iou, best_object, matches)
    if best_match and len(boxes):
        best = iou.amax(dim=0)
        is_best = ((iou == best) & (best > 0)).any(dim=1)
        matches = torch.where(is_best, best_object, matches)
    return matches


def sample_matches(matches: Tensor, n: int, max_objects: int, *key: int) -> Tensor:
    """Indices of at most n boxes, at most `max_objects` of them objects' and the rest background.
    The draw is a function of the key and of each box's index."""
    draw = keyed_hash(*key, torch.arange(len(matches), device=matches.device))
    order = draw.argsort(stable=True)
    positive = order[matches[order] >= 0][:max_objects]
    negative = order[matches[order] == BACKGROUND][: n - len(positive)]
    return torch.cat([positive, negative])


def anchor_losses(
    recipe: DetectionRecipe, sample: Sample, anchors: Tensor, scores: Tensor, deltas: Tensor
) -> Tensor:
    """The objectness and the box loss (2,) of 256 anchors inside the image: scores (A, 2) and
    deltas (A, 4) of all anchors (A, 4)."""
    height, width = sample.image.shape[1:]
    left, top, right, bottom = anchors.unbind(-1)
    inside = (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)
    inside = inside.nonzero()[:, 0]
    matches = match(anchors[inside], sample.boxes, 0.7, (0.0, 0.3), best_match=True)
    key = recipe.seed, *sample.key, ANCHOR_DRAW
    chosen = sample_matches(matches, recipe.anchors, recipe.anchors // 2, *key)
    which, matches = inside[chosen], matches[chosen]
    positive = matches >= 0
    objectness = F.cross_entropy(scores[which], positive.long(), reduction="sum")
    targets = encode(sample.boxes[matches[positive]].to(anchors.dtype), anchors[which[positive]])
    box = F.smooth_l1_loss(deltas[which[positive]], targets, reduction="sum", beta=1 / 9)
    return torch.stack([objectness, box]) / max(len(which), 1)


def sample_regions(
    recipe: DetectionRecipe, sample: Sample, regions: Tensor
) -> tuple[Tensor, Tensor]:
    """128 of the regions (R, 4) and their matches; none if no region is an object's or
    background."""
    matches = match(regions, sample.boxes, 0.5, (recipe.background, 0.5))
    key = recipe.seed, *sample.key, REGION_DRAW
    chosen = sample_matches(matches, recipe.regions, recipe.regions // 4, *key)
    return regions[chosen], matches[chosen]


def region_losses(
    sample: Sample, regions: Tensor, matches: Tensor, scores: Tensor, deltas: Tensor
) -> Tensor:
    """The class and the box loss (2,) of regions (R, 4): scores (R, classes + 1) and deltas
    (R, classes, 4)."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    positive = matches >= 0
    labels = torch.zeros_like(matches)
    labels[positive] = sample.labels[matches[positive]] + 1
    classes = F.cross_entropy(scores.to(dtype), labels, reduction="sum")
    std = torch.tensor(BOX_STD, device=scores.device, dtype=dtype)
    objects = sample.boxes[matches[positive]].to(dtype)
    targets = encode(objects, regions[positive].to(dtype)) / std
    own_deltas = deltas[positive, labels[positive] - 1].to(dtype)
    box = F.smooth_l1_loss(own_deltas, targets, reduction="sum")
    return torch.stack([classes, box]) / len(regions)
