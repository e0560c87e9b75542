"""Average precision, as PASCAL VOC and COCO define it."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from math import isnan, nan
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import DetectionDataset, Example

COCO_IOUS = tuple(n / 100 for n in range(50, 100, 5))  # .5 to .95
# By their key in a result: the IoU thresholds of the mean, and the devkit's measure: that of 2007
# is by 11 points, and by area from 2010 on.
MEASURES = {
    "AP50-11pt": ((0.5,), "11"),
    "AP50-area": ((0.5,), "area"),
    "AP[.5:.95]": (COCO_IOUS, "area"),
}
COCO = ("AP[.5:.95]", "AP50", "AP75", "small", "medium", "large")  # as pycocotools lists them


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class in a split, by falling score, each with the object of the class
    that it overlaps most."""

    iou: Tensor  # (D,) float64; 0 if the image has no such object
    objects: Tensor  # (D,) int64, indices among all objects of the split
    difficult: Tensor  # (D,) bool: of that object
    n_ordinary: int  # objects of the class
    n_difficult: int


def match_detections(
    detections: Sequence[Detections], examples: Sequence[Example], classes: int
) -> list[ClassMatches]:
    """The matches of each class. Equal scores stay in the order of the images, then as detected."""
    floats, ints = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    ious, indices, n = [floats], [ints], 0
    for one, example in zip(detections, examples, strict=True):
        iou = box_iou(one.boxes.double(), example.boxes.double()).nan_to_num(0.0)  # (D, N)
        iou = iou * (one.labels[:, None] == example.labels)
        best, which = F.pad(iou, (0, 1)).max(dim=1)  # the first of equals; IoU 0 with nothing
        ious.append(best)
        indices.append(n + which)
        n += len(example.labels)
    iou, index = torch.cat(ious), torch.cat(indices)
    scores = torch.cat([floats.float(), *(one.scores for one in detections)])
    labels = torch.cat([ints, *(one.labels for one in detections)])
    object_labels = torch.cat([ints, *(example.labels for example in examples)])
    difficult = torch.cat([ints.bool(), *(example.difficult for example in examples)])
    of_object = F.pad(difficult, (0, 1))[index]
    order = scores.argsort(descending=True, stable=True)
    matches = []
    for label in range(classes):
        rows = order[labels[order] == label]
        of_class = difficult[object_labels == label]
        n_difficult = int(of_class.sum())
        counts = len(of_class) - n_difficult, n_difficult
        matches.append(ClassMatches(iou[rows], index[rows], of_object[rows], *counts))
    return matches


def voc_ap(
    matches: Sequence[ClassMatches],
    iou: float = 0.5,
    points: str = "area",
    difficult: bool = False,
) -> Tensor:
    """Average precision of each class (classes,), float64 from 0 to 1, as the devkit defines it.

    A detection is right if it overlaps its object by at least `iou` and is the first to do so. With
    `difficult`, difficult objects count as others; else their detections count neither way. A class
    without objects has NaN.
    """
    return torch.stack([class_ap(one, iou, points, difficult) for one in matches])


def class_ap(matches: ClassMatches, iou: float, points: str, difficult: bool) -> Tensor:
    """`voc_ap` of one class."""
    n = matches.n_ordinary + matches.n_difficult * difficult
    if not n:
        return torch.tensor(nan, dtype=torch.float64)
    hit = matches.iou >= iou
    counted = ~hit | ~matches.difficult | difficult
    hit, objects = hit[counted], matches.objects[counted]
    _, first = np.unique(objects[hit].numpy(), return_index=True)
    right = torch.zeros_like(hit)
    right[hit.nonzero()[first]] = True
    n_right = F.pad(right.cumsum(0), (1, 0))  # before the first detection there is none
    precision = n_right.double() / torch.arange(len(n_right)).clamp(min=1)
    envelope = precision.flip(0).cummax(0).values.flip(0)  # the best at this recall or a larger one
    if points == "area":
        return envelope[1:][right].sum() / n
    # In integers: in floating point, a recall of exactly 3/10 may miss the point 0.3.
    reached = 10 * n_right >= torch.arange(11)[:, None] * n
    return (precision * reached).amax(dim=1).mean()


def measure(detections: Sequence[Detections], dataset: DetectionDataset) -> dict[str, Any]:
    """The numbers that a result file holds, in percent; None for a class without objects.

    Each of the MEASURES has a mean and a number for each class, once with difficult objects set
    aside and, under `difficult counted`, once with them. Under `coco` are COCO's own numbers, of a
    data set in its format.
    """
    matches = match_detections(detections, dataset.examples, len(dataset.classes))

    def measures(difficult: bool) -> dict[str, Any]:
        result = {}
        for name, (ious, points) in MEASURES.items():
            values = torch.stack([voc_ap(matches, iou, points, difficult) for iou in ious], dim=1)
            ap = values.mean(dim=1)
            by_class = dict(zip(dataset.classes, map(percent, ap), strict=True))
            result[name] = {"mean": percent(ap.nanmean()), "classes": by_class}
        return result

    result: dict[str, Any] = {
        "pictures": len(dataset.examples),
        "objects": sum(one.n_ordinary for one in matches),
        "difficult": sum(one.n_difficult for one in matches),
        "detections": sum(len(one.iou) for one in matches),
        **measures(False),
        "difficult counted": measures(True),
    }
    if dataset.format == "coco":
        numbers = coco_ap(detections, dataset)
        result["coco"] = {name: percent(value) for name, value in numbers.items()}
    return result


def percent(share: float | Tensor) -> float | None:
    return None if isnan(share) else 100 * float(share)


# ---- COCO ---------------------------------------------------------------------------------------


def check_pycocotools() -> None:
    """Raises ValueError if pycocotools is not installed."""
    if find_spec("pycocotools") is None:
        raise ValueError(
            "COCO's measure needs pycocotools: pip install 'residual-learning[detection]'"
        )


def coco_ap(detections: Sequence[Detections], dataset: DetectionDataset) -> dict[str, float]:
    """COCO's average precision by pycocotools, from 0 to 1: the mean over classes and ten IoU
    thresholds, at .5, at .75, and of small, medium and large objects; NaN without such objects.

    Raises ValueError if pycocotools is missing.
    """
    check_pycocotools()
    from pycocotools.coco import COCO as Index  # noqa: N811
    from pycocotools.cocoeval import COCOeval

    # Choice: small, medium and large are by the area of the box. COCO uses the area of the
    # segmentation, which is not read here; the other numbers are equal.
    # Choice: detections of VOC's difficult objects are neither right nor wrong, as in the devkit.
    # They are not crowds (which match any number of detections), so they get an area outside of
    # every range.
    crowds = dataset.format == "coco"
    truth = [
        annotation(i, box, label, iscrowd=int(difficult and crowds))
        | ({"area": -1.0} if difficult and not crowds else {})
        for i, example in enumerate(dataset.examples)
        for box, label, difficult in table(example.boxes, example.labels, example.difficult)
    ]
    guesses = [
        annotation(i, box, label, score=score, iscrowd=0)
        for i, one in enumerate(detections)
        for box, label, score in table(one.boxes, one.labels, one.scores)
    ]
    with redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, guesses):
            side = Index()
            side.dataset = {
                "images": [{"id": n} for n in range(len(dataset.examples))],
                "categories": [{"id": n} for n in range(len(dataset.classes))],
                "annotations": [{"id": n, **one} for n, one in enumerate(annotations, start=1)],
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(COCO, evaluation.stats, strict=False))
    return {name: float(value) if value >= 0 else nan for name, value in values.items()}


def table(*columns: Tensor) -> Any:
    return zip(*(column.tolist() for column in columns), strict=True)


def annotation(image: int, box: Sequence[float], label: int, **more: float) -> dict[str, Any]:
    """A box as pycocotools takes it."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    place = {"bbox": [left, top, width, height], "area": width * height}
    return {"image_id": image, "category_id": label, **place, **more}
