"""Evaluation: average precision of a detector, or of an ensemble, on a split of a data set."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from residual.data.datasets import Progress, no_progress
from residual.device import ComputeConfig
from residual.distributed import World
from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import DetectionDataset
from residual.tasks.detection.inference import check_ensemble, detect_image, image_sides
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.loader import map_images
from residual.tasks.detection.metrics import check_pycocotools, measure
from residual.tasks.detection.recipe import Testing
from residual.training.recipe import to_json

# On an image that cannot be read.
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True)
class EvalOptions:
    """How an evaluation is computed. Nothing here changes a result."""

    config: ComputeConfig
    workers: int = 2  # threads that read images
    progress: Progress = no_progress
    world: World = field(default_factory=World)


def evaluate(
    detectors: Sequence[TrainedDetector],
    dataset: DetectionDataset,
    testing: Testing,
    options: EvalOptions,
) -> dict[str, Any]:
    """Average precision, and what it was measured on. Raises ValueError if detectors and data set
    do not go together."""
    check_ensemble(detectors)
    if dataset.format == "coco":
        check_pycocotools()
    if dataset.classes != detectors[0].classes:
        raise ValueError(
            f"the detector knows {', '.join(detectors[0].classes)}, and {dataset.name} has "
            f"{', '.join(dataset.classes)}"
        )
    placed = [detector.placed(options.config) for detector in detectors]
    start = time.perf_counter()
    detections, reasons = detect_all(placed, dataset, testing, options)
    seconds = time.perf_counter() - start
    return {
        "task": "detection",
        "networks": [detector.recipe.network for detector in detectors],
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "testing": to_json(testing),
        "protocol": dataset.format,
        "seen": len(dataset.examples),
        "ap": measure(detections, dataset),
        "pictures_per_second": round(len(detections) / max(seconds, 1e-9), 2),
        "damaged": [reason for reason in reasons if reason],
        "ignored_boxes": list(dataset.skipped),
    }


def detect_all(
    placed: Sequence[TrainedDetector],
    dataset: DetectionDataset,
    testing: Testing,
    options: EvalOptions,
) -> tuple[list[Detections], list[str]]:
    """The detections on each image, and the reason for each image that cannot be read, or ""."""
    detect = partial(detect_image, placed, testing=testing, config=options.config)
    sides = image_sides(placed[0].recipe, testing)
    results = map_images(detect, dataset, sides, options.workers, options.world, options.progress)
    return [result or NOTHING for result, _ in results], [reason for _, reason in results]
