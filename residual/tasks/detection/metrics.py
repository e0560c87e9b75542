"""Average precision: how well a detector finds the objects of a split, as PASCAL VOC and COCO count
it."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from math import isnan, nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.tasks.detection.boxes import Detections, overlaps
from residual.tasks.detection.datasets import DetectionDataset, Example

POINTS = ("area", "11")  # the devkit's measure from 2010 on, and that of 2007
TENTHS = tuple(n / 100 for n in range(50, 100, 5))  # COCO's ten overlaps, .5 to .95
MEASURES = {  # as they are kept: the overlaps that they are the mean over, and the points
    "AP50-11pt": ((0.5,), "11"),
    "AP50-area": ((0.5,), "area"),
    "AP[.5:.95]": (TENTHS, "area"),
}
COCO = ("AP[.5:.95]", "AP50", "AP75", "small", "medium", "large")  # as pycocotools lists them
MISSING = "COCO's measure needs pycocotools: pip install 'residual-learning[detection]'"


@dataclass(frozen=True)
class Matches:
    """What is found of one class in a split, the surest first, and the object of that class on the
    same picture that each of it overlaps most."""

    overlaps: Tensor  # (D,) float64; 0 where the picture has no such object
    objects: Tensor  # (D,) int64, places among all objects of the split
    aside: Tensor  # (D,) bool: that object is difficult
    ordinary: int  # objects of the class
    difficult: int


def voc_ap(
    found: Sequence[Detections],
    examples: Sequence[Example],
    classes: int,
    iou: float = 0.5,
    points: str = "area",
    difficult: bool = False,
) -> Tensor:
    """Average precision of each class (classes,), float64 from 0 to 1, as the devkit counts it.

    A detection is right when the object of its class that it overlaps most is overlapped by at
    least `iou`, and was not found by a surer one. With `difficult`, difficult objects are objects
    like others; else what finds them is neither right nor wrong. A class without objects has nan.
    Raises ValueError for other points, and where what is found is not of these examples.
    """
    return torch.stack(
        [
            average_precision(own, iou, points, difficult)
            for own in compared(found, examples, classes)
        ]
    )


def compared(
    found: Sequence[Detections], examples: Sequence[Example], classes: int
) -> tuple[Matches, ...]:
    """The matches of each class. Equal scores stay in the order of the pictures, then as found."""
    if len(found) != len(examples):
        raise ValueError(
            f"detections on {len(found)} pictures cannot be judged on {len(examples)}: one Found "
            f"for each example, which may be empty"
        )
    shares, objects, first = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0).long()], 0
    for one, example in zip(found, examples, strict=True):
        own = overlaps(one.boxes.double(), example.boxes.double()).nan_to_num(0.0)  # (D, N)
        own = own * (one.labels[:, None] == example.labels)
        most, which = F.pad(own, (0, 1)).max(dim=1)  # the first of equals; nothing overlaps by 0
        shares.append(most)
        objects.append(first + which)
        first += len(example.labels)
    share, object_ = torch.cat(shares), torch.cat(objects)
    scores = torch.cat([torch.zeros(0), *(one.scores for one in found)])
    labels = torch.cat([torch.zeros(0).long(), *(one.labels for one in found)])
    theirs = torch.cat([torch.zeros(0).long(), *(each.labels for each in examples)])
    hard = torch.cat([torch.zeros(0).bool(), *(each.difficult for each in examples)])
    aside = F.pad(hard, (0, 1))[object_]
    order = scores.argsort(descending=True, stable=True)
    matches = []
    for label in range(classes):
        own = order[labels[order] == label]
        hard_ones, all_ones = int(hard[theirs == label].sum()), int((theirs == label).sum())
        of_class = share[own], object_[own], aside[own]
        matches.append(Matches(*of_class, all_ones - hard_ones, hard_ones))
    return tuple(matches)


def of_classes(
    matches: Sequence[Matches], limits: Sequence[float], points: str, difficult: bool
) -> Tensor:
    """Average precision of each class (classes,), its mean over some overlaps."""
    each = [
        torch.stack([average_precision(own, iou, points, difficult) for iou in limits])
        for own in matches
    ]
    return torch.stack(each).mean(dim=1)


def average_precision(matches: Matches, iou: float, points: str, difficult: bool) -> Tensor:
    """Average precision of one class, from 0 to 1, or nan: a float64 scalar."""
    if points not in POINTS:
        raise ValueError(f"average precision is by {' or '.join(POINTS)} points, not {points!r}")
    objects = matches.ordinary + matches.difficult * difficult
    if not objects:
        return torch.tensor(nan, dtype=torch.float64)
    hit = matches.overlaps >= iou
    counted = ~hit | ~matches.aside | difficult
    hit, own = hit[counted], matches.objects[counted]
    right = hit.clone()
    right[hit] = first_of_each(own[hit])
    rights = F.pad(right.cumsum(0), (1, 0))  # before the first detection there is none
    precisions = rights.double() / torch.arange(len(rights)).clamp(min=1)
    highest = precisions.flip(0).cummax(0).values.flip(0)  # at this recall or a larger one
    if points == "area":
        return highest[1:][right].sum() / objects
    # In integers: in floating point, a recall of exactly 3/10 may miss the point 0.3.
    reached = 10 * rights >= torch.arange(11)[:, None] * objects
    return (precisions * reached).amax(dim=1).mean()


def first_of_each(values: Tensor) -> Tensor:
    """Where each value (N,) from 0 on stands for the first time: (N,) bool."""
    order = values.argsort(stable=True)
    first = torch.zeros(len(values), dtype=torch.bool)
    first[order] = values[order].diff(prepend=values.new_full((1,), -1)) != 0
    return first


def check_installed() -> None:
    """Raises ValueError where pycocotools is not installed."""
    if find_spec("pycocotools") is None:
        raise ValueError(MISSING)


def coco_ap(found: Sequence[Detections], scenes: DetectionDataset) -> dict[str, float]:
    """COCO's average precision by pycocotools, from 0 to 1: the mean over classes and the ten
    overlaps, at .5, at .75, and of small, medium and large objects; nan where there are none.

    Raises ValueError where pycocotools is missing.
    """
    try:
        from pycocotools.coco import COCO as Index  # noqa: N811
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ValueError(MISSING) from None
    with redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truths(scenes), detections(found)):
            side = Index()
            side.dataset = {
                "images": [{"id": n} for n in range(len(scenes.examples))],
                "categories": [{"id": n} for n in range(len(scenes.classes))],
                "annotations": [{"id": n, **each} for n, each in enumerate(annotations, start=1)],
            }
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    values = dict(zip(COCO, judge.stats, strict=False))
    return {name: float(value) if value >= 0 else nan for name, value in values.items()}


def truths(scenes: DetectionDataset) -> list[dict[str, Any]]:
    """The objects of a split as pycocotools takes them."""
    # Choice: small, medium and large are by the area of the box. COCO's own are by the area of the
    # outline, which an object here does not have; the other numbers are the same.
    # Choice: VOC's difficult objects are neither right nor wrong to find, as in the devkit. They
    # are no crowds, of which any part may be found any number of times, so they are given an area
    # that is in no range.
    crowds = scenes.format == "coco"
    return [
        annotation(picture, box, label)
        | {"iscrowd": int(hard and crowds)}
        | ({"area": -1.0} if hard and not crowds else {})
        for picture, each in enumerate(scenes.examples)
        for box, label, hard in zip(
            each.boxes.tolist(), each.labels.tolist(), each.difficult.tolist(), strict=True
        )
    ]


def detections(found: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        annotation(picture, box, label) | {"score": score, "iscrowd": 0}
        for picture, one in enumerate(found)
        for box, label, score in zip(
            one.boxes.tolist(), one.labels.tolist(), one.scores.tolist(), strict=True
        )
    ]


def annotation(picture: int, box: Sequence[float], label: int) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    place = {"bbox": [left, top, width, height], "area": width * height}
    return {"image_id": picture, "category_id": label, **place}


def judged(found: Sequence[Detections], scenes: DetectionDataset) -> dict[str, Any]:
    """What a result file keeps of a split's detections, in percent; None where there is no object.

    Each of the MEASURES is a mean and one number for each class, once with difficult objects set
    aside and once more, under `difficult counted`, with them as objects like others. Under `coco`
    are COCO's own numbers, of a split of its sort.
    """
    matches = compared(found, scenes.examples, len(scenes.classes))

    def measured(difficult: bool) -> dict[str, Any]:
        answer = {}
        for name, (limits, points) in MEASURES.items():
            each = of_classes(matches, limits, points, difficult)
            by_class = dict(zip(scenes.classes, map(percent, each), strict=True))
            answer[name] = {"mean": percent(each.nanmean()), "classes": by_class}
        return answer

    answer: dict[str, Any] = {
        "pictures": len(scenes.examples),
        "objects": sum(own.ordinary for own in matches),
        "difficult": sum(own.difficult for own in matches),
        "detections": sum(len(own.overlaps) for own in matches),
        **measured(False),
        "difficult counted": measured(True),
    }
    if scenes.format == "coco":
        numbers = coco_ap(found, scenes)
        answer["coco"] = {name: percent(each) for name, each in numbers.items()}
    return answer


def percent(share: float | Tensor) -> float | None:
    """As the paper prints it; None for nan."""
    return None if isnan(share) else 100 * float(share)
