"""What a detector learns from pictures: the four losses of Faster R-CNN."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.data.rng import keyed_hash
from residual.tasks.detection.boxes import (
    UNRESIZED,
    anchors,
    apart,
    best_first,
    encoded,
    inside,
    least_sides,
    overlaps,
)
from residual.tasks.detection.faster_rcnn import Detector
from residual.training.dropout import Dropouts

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
    draw = keyed_hash(*key, torch.arange(len(matches), device=matches.device))
    order = draw.argsort(stable=True)
    of_objects = order[matches[order] >= 0][:objects]
    of_background = order[matches[order] == BACKGROUND][: count - len(of_objects)]
    return torch.cat([of_objects, of_background])


OBJECT_OR_NOT = Limits(object=0.7, background=(0.0, 0.3), best=True)
DEVIATIONS = (0.1, 0.1, 0.2, 0.2)  # of the shifts of regions, by which they are divided
ANCHORS, REGIONS = range(2)  # the draws of a picture
PARTS = ("objectness_loss", "anchor_loss", "class_loss", "box_loss")


@dataclass(frozen=True)
class Sample:
    """A picture that a step learns from, ready on its device."""

    image: Tensor  # (3, H, W), normalised
    boxes: Tensor  # (M, 4) of the objects, in its pixels
    labels: Tensor  # (M,)
    key: tuple[int, int]  # the epoch, and the picture's place among all
    place: int = 0  # in the batch, over all processes
    regions: Tensor | None = None  # (R, 4) in place of proposals of the network's own
    factors: Tensor = UNRESIZED  # (4,), on the CPU: by which the picture was resized


def losses(
    net: Detector,
    samples: Sequence[Sample],
    memory_format: torch.memory_format = torch.contiguous_format,
    parts: Sequence[str] = PARTS,
    dropouts: Dropouts | None = None,
) -> Tensor:
    """The four losses (4,), summed over pictures of one size; of those that are not asked for, 0.

    Each is a mean over the anchors, or regions, of a picture that learn.
    """
    # Choice: pictures are not padded to a common size, so that none changes with its neighbours;
    # those of one size pass the shared layers together.
    images = torch.stack([sample.image for sample in samples])
    maps = net.maps(images.contiguous(memory_format=memory_format))
    scores, shifts = net.proposing(maps)
    dtype = torch.promote_types(maps.dtype, torch.float32)
    rows, columns = maps.shape[2:]
    own = anchors(rows, columns, net.recipe.scales, maps.device).to(dtype)
    total = torch.zeros(4, device=maps.device, dtype=dtype)
    for i, sample in enumerate(samples):
        if "objectness_loss" in parts:
            total = total + F.pad(
                of_anchors(net, sample, own, scores[i].to(dtype), shifts[i].to(dtype)), (0, 2)
            )
        if "class_loss" in parts:
            given = sample.regions
            if given is None:
                given = proposed(net, sample, own, scores[i].detach(), shifts[i].detach())
            if dropouts is not None:
                dropouts.first = sample.place
            total = total + F.pad(of_regions(net, sample, maps[i : i + 1], given), (2, 0))
    return total


def of_anchors(
    net: Detector, sample: Sample, own: Tensor, scores: Tensor, shifts: Tensor
) -> Tensor:
    """Whether 256 anchors are objects, and where those are (2,)."""
    recipe = net.recipe
    within = inside(own, *sample.image.shape[1:]).nonzero()[:, 0]
    found = matched(own[within], sample.boxes, OBJECT_OR_NOT)
    seed = recipe.seed, *sample.key, ANCHORS
    chosen = sampled(found, recipe.anchors, recipe.anchors // 2, *seed)
    which, of = within[chosen], found[chosen]
    objects = of >= 0
    objectness = F.cross_entropy(scores[which], objects.long(), reduction="sum")
    wanted = encoded(sample.boxes[of[objects]].to(own.dtype), own[which[objects]])
    apart = F.smooth_l1_loss(shifts[which[objects]], wanted, reduction="sum", beta=1 / 9)
    return torch.stack([objectness, apart]) / max(len(which), 1)


def proposed(net: Detector, sample: Sample, own: Tensor, scores: Tensor, shifts: Tensor) -> Tensor:
    """The network's proposals (R, 4), and the objects themselves."""
    recipe = net.recipe
    height, width = sample.image.shape[1:]
    found = best_first(scores, shifts, own, (height, width), recipe.candidates)
    boxes, _ = apart(*found, recipe.proposals, least_sides(recipe.smallest, sample.factors))
    return torch.cat([boxes.to(sample.boxes.dtype), sample.boxes])


def of_regions(net: Detector, sample: Sample, maps: Tensor, given: Tensor) -> Tensor:
    """Of which class 128 regions are, and where their objects are (2,)."""
    recipe = net.recipe
    limits = Limits(object=0.5, background=(recipe.background, 0.5))
    found = matched(given, sample.boxes, limits)
    seed = recipe.seed, *sample.key, REGIONS
    chosen = sampled(found, recipe.regions, recipe.regions // 4, *seed)
    if not len(chosen):  # no region is an object's, and none is background
        # Of nothing, but with gradients, so that every process has as many.
        given, found = given.new_tensor([[0, 0, 1, 1]]), found.new_full((1,), BACKGROUND)
        return 0 * class_and_box(net, sample, maps, given, found)
    return class_and_box(net, sample, maps, given[chosen], found[chosen])


def class_and_box(
    net: Detector, sample: Sample, maps: Tensor, regions: Tensor, of: Tensor
) -> Tensor:
    """The mean losses (2,) of regions (R, 4), whose objects are at places (R,)."""
    vectors = net.vectors(maps, regions, (sample.image.shape[1], sample.image.shape[2]))
    scores, shifts = net.answers(vectors)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    objects = of >= 0
    labels = torch.zeros_like(of)
    labels[objects] = sample.labels[of[objects]] + 1
    classes = F.cross_entropy(scores.to(dtype), labels, reduction="sum")
    deviations = torch.tensor(DEVIATIONS, device=maps.device, dtype=dtype)
    wanted = encoded(sample.boxes[of[objects]].to(dtype), regions[objects].to(dtype)) / deviations
    own = shifts[objects, labels[objects] - 1].to(dtype)
    apart = F.smooth_l1_loss(own, wanted, reduction="sum")
    return torch.stack([classes, apart]) / len(regions)
