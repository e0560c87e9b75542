"""A detector at work: from a picture to boxes with classes and scores (Section 4.3, App. B)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from residual.device import raise_non_finite
from residual.tasks.detection.boxes import (
    UNRESIZED,
    Detections,
    anchors,
    apart,
    best_first,
    clipped,
    decoded,
    least_sides,
    merged,
    suppressed_by_class,
    voted,
)
from residual.tasks.detection.faster_rcnn import Detector
from residual.tasks.detection.losses import DEVIATIONS
from residual.tasks.detection.recipe import VOC07, Testing

# Of a region, in pixels; it is looked at where its own area is closest to this square (SPP-net).
SIDE = 224


class Look:
    """One picture, as one detector sees it at one scale or at several.

    Regions and boxes are in pixels of the first image.
    """

    def __init__(
        self, net: Detector, images: Sequence[Tensor], factors: Tensor = UNRESIZED
    ) -> None:
        """Of images (3, H, W), normalised, of which the first is of the scale of training, to
        which the picture was resized by factors (4,)."""
        self.net, self.images, self.factors = net, images, factors
        self.finite: list[Tensor] = []  # of everything that the network has said
        self.size = images[0].shape[1], images[0].shape[2]
        self.first = net.maps(images[0][None])
        more = {(image.shape[1], image.shape[2]): net.maps(image[None]) for image in images[1:]}
        self.maps = dict(sorted((more | {self.size: self.first}).items()))  # by (height, width)

    def proposed(self, testing: Testing) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4) and probabilities (P,), from the first scale alone (App. B)."""
        maps = self.first
        scores, shifts = self.net.proposing(maps)
        self.finite += [scores.isfinite().all(), shifts.isfinite().all()]
        rows, columns = maps.shape[2:]
        own = anchors(rows, columns, self.net.recipe.scales, maps.device)
        found = best_first(scores[0], shifts[0], own, self.size, testing.candidates)
        least = least_sides(self.net.recipe.smallest, self.factors)
        boxes, ahead = apart(*found, testing.proposals, least)
        return boxes, ahead.sigmoid()

    def vectors(self, regions: Tensor) -> Tensor:
        """(R, F): of two scales the greater value, where there are several."""
        if len(self.maps) == 1 or not len(regions):
            return self.net.vectors(self.first, regions, self.size)
        smaller = self.pair(regions)
        found: Tensor | None = None
        for scale, (size, maps) in enumerate(self.maps.items()):
            chosen = ((smaller == scale) | (smaller == scale - 1)).nonzero()[:, 0]
            if not len(chosen):
                continue
            x, y = size[1] / self.size[1], size[0] / self.size[0]
            there = regions[chosen] * regions.new_tensor([x, y, x, y])
            vectors = self.net.vectors(maps, there, size)
            if found is None:
                found = vectors.new_full((len(regions), vectors.shape[1]), -torch.inf)
            found[chosen] = torch.maximum(found[chosen], vectors)
        assert found is not None
        return found

    def pair(self, regions: Tensor) -> Tensor:
        """Of two neighbouring scales, the place of the smaller one, for each region (R,)."""
        # Choice: the two scales at which a region's area lies on both sides of 224x224 pixels, and
        # at the ends the last two, as in "networks on convolutional feature maps" (NoC).
        area = (regions[:, 2:] - regions[:, :2]).clamp(min=1e-3).prod(dim=1)
        at = [area * (h * w) / (self.size[0] * self.size[1]) for h, w in self.maps]
        # In proportion, where the shorter side of training is none of the paper's 600 pixels.
        side = SIDE * self.net.recipe.shorter / VOC07.shorter
        smaller = torch.stack([each <= side**2 for each in at]).sum(dim=0) - 1
        return smaller.clamp(0, len(self.maps) - 2)

    def judged(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (R, classes + 1), and a box for each class (R, classes, 4)."""
        scores, shifts = self.net.answers(self.vectors(regions))
        self.finite += [scores.isfinite().all(), shifts.isfinite().all()]
        dtype = torch.promote_types(scores.dtype, torch.float32)
        moved = shifts.to(dtype) * torch.tensor(DEVIATIONS, device=shifts.device, dtype=dtype)
        boxes = clipped(decoded(moved, regions.to(dtype)[:, None]), *self.size)
        return scores.to(dtype).softmax(dim=1), boxes

    def check(self, testing: Testing) -> None:
        """Raises NotFinite, with the layer, where the network has said numbers that are not finite.
        A box of such is none, so that no picture could show it."""
        if bool(torch.stack(self.finite).all()):
            return

        def again() -> None:
            look = Look(self.net, self.images, self.factors)
            look.judged(look.proposed(testing)[0])

        raise_non_finite(self.net.recipe.network, self.net, again)


def together(looks: Sequence[Look], regions: Tensor) -> tuple[Tensor, Tensor]:
    """What several detectors say of regions, on average (App. B)."""
    # Choice: probabilities and boxes are averaged; the paper says "ensemble" and no more.
    found = [look.judged(regions) for look in looks]
    probabilities, boxes = zip(*found, strict=True)
    return torch.stack(probabilities).mean(dim=0), torch.stack(boxes).mean(dim=0)


@torch.no_grad()
def detected(looks: Sequence[Look], testing: Testing) -> Detections:
    """What one detector finds, or several as an ensemble: in pixels of the first image. Raises
    NotFinite, with the layer, where a detector's numbers are not finite."""
    regions = merged([look.proposed(testing) for look in looks], testing.proposals * len(looks))
    probabilities, boxes = together(looks, regions)
    if testing.refinement and len(regions):
        # Choice: a region is looked at again where the box of its best class lies: 300 more.
        best = probabilities[:, 1:].argmax(dim=1)
        again = boxes[torch.arange(len(best), device=best.device), best]
        more = together(looks, again)
        probabilities = torch.cat([probabilities, more[0]])
        boxes = torch.cat([boxes, more[1]])
    for look in looks:
        look.check(testing)
    return chosen(probabilities, boxes, testing)


def chosen(probabilities: Tensor, boxes: Tensor, testing: Testing) -> Detections:
    """Of what is said of regions, (R, classes + 1) and (R, classes, 4), what counts as found."""
    # What was cut off at the border until nothing was left is no box.
    there = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    rows, labels = ((probabilities[:, 1:] > testing.least) & there).nonzero(as_tuple=True)
    scores, own = probabilities[rows, labels + 1], boxes[rows, labels]
    stay = suppressed_by_class(own, scores, labels, testing.overlap)[: testing.most]
    final = own[stay]
    if testing.refinement:
        final = final.clone()
        for label in set(labels[stay].tolist()):
            mine, all_ = labels[stay] == label, labels == label
            final[mine] = voted(own[stay][mine], own[all_], scores[all_])
    return Detections(final, scores[stay], labels[stay])
