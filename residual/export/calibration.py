"""Chooses the pictures of a calibration, and others of a comparison; none is of a test set."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residual.data.datasets import Data, ImageSet, ImageTensors, apply_split
from residual.data.decode import DamagedImage, as_image, decode, open_image
from residual.data.loader import read_ahead
from residual.export.detector import OUTPUTS
from residual.export.quantization import Answers, Array, Pictures
from residual.runs.load import Trained
from residual.tasks.classification.checks import check_size, match_labels
from residual.tasks.classification.metrics import count, top_k
from residual.tasks.detection import coco, datasets
from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import DetectionDataset, Example
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.metrics import measure

# Choice: so many pictures at most, evenly spaced, so that large data takes minutes; the paper knows
# no eight bits. With 256 pictures the error of ResNet-20 on CIFAR-10 changes by 0.02 points.
CALIBRATED, EVALUATED = 256, 5_000
CALIBRATED_SCENES, EVALUATED_SCENES = 100, 500  # of a detector, which takes seconds for each
BATCH, AHEAD = 50, 8


def evenly(places: Sequence[int], most: int) -> list[int]:
    """At most so many of these places, evenly spaced."""
    n = min(len(places), most)
    return [places[i * len(places) // n] for i in range(n)]


def divide(n: int, name: str, calibrated: int) -> tuple[list[int], list[int]]:
    """Places of n training pictures for the calibration, at most half, and all others. Raises
    ValueError for fewer than two."""
    if n < 2:
        raise ValueError(f"{name} has {n} training pictures; a calibration and a comparison need 2")
    chosen = evenly(range(n), min(calibrated, n // 2))
    return chosen, sorted(set(range(n)) - set(chosen))


# ---- classifiers --------------------------------------------------------------------------------


def classifier_pictures(trained: Trained, data: Data, inside: bool) -> Pictures:
    """Training pictures for the calibration; the comparison is on the val set, or without one on
    other training pictures.

    Raises ValueError if network and data do not go together, or without training pictures.
    """
    data = apply_split(data, trained.recipe.split if trained.recipe else "full")
    calibration, rest = divide(len(data.train), data.name, CALIBRATED)
    images, split, places = data.train, "train", rest
    if data.val is not None:
        images, split, places = data.val, "val", list(range(len(data.val)))
        calibration = evenly(range(len(data.train)), CALIBRATED)
    check_size(trained, data.train, data.name)
    images = replace(images, labels=match_labels(trained, data, images.labels))
    places = evenly(places, EVALUATED)
    batches = partial(image_batches, trained, inside=inside)
    return Pictures(
        data=data.name,
        fingerprint=data.fingerprint,
        split=split,
        calibrated=len(calibration),
        evaluated=len(places),
        calibration=lambda: (batch for batch, _ in batches(data.train, calibration)),
        evaluation=lambda: batches(images, places),
        measure="error_top1",
        percent=top1_error,
    )


def image_batches(
    trained: Trained, images: ImageSet, places: Sequence[int], inside: bool
) -> Iterator[tuple[Array, Tensor]]:
    """Inputs of the ONNX model, and their labels; damaged photographs are left out."""
    view = trained.preprocessing
    if isinstance(images, ImageTensors):
        for part in torch.split(torch.tensor(places), BATCH):
            pixels = images.pixels[part]
            array = pixels.permute(0, 2, 3, 1).contiguous() if inside else view(pixels)
            yield array.numpy(), images.labels[part]
        return

    def read(i: int) -> tuple[Array, Tensor]:
        image = as_image(images.image(i))
        if inside:  # of any size, and so one by one
            return np.asarray(image)[None], images.labels[i : i + 1]
        pixels = decode(image, view.size, view.shorter)
        return view(pixels[None]).numpy(), images.labels[i : i + 1]

    for result in read_ahead(read, places, 2, AHEAD):
        with suppress(DamagedImage, OSError):
            yield result()


def top1_error(answers: Answers) -> float:
    """The top-1 error in percent, of probabilities and labels."""
    outputs = torch.cat([torch.from_numpy(arrays[0]) for arrays, _ in answers])
    return count(top_k(outputs), torch.cat([labels for _, labels in answers])).error_top1


# ---- detectors ----------------------------------------------------------------------------------


def detector_pictures(trained: TrainedDetector, folder: Path) -> Pictures:
    """Training pictures for the calibration; the comparison is on the split `val` if that is not
    the test set, or else on other training pictures.

    Raises ValueError if detector and data do not go together, or without training pictures.
    """
    recipe = trained.recipe
    name, test = datasets.choose_splits(folder, recipe.train_split, recipe.test_split)
    train = datasets.load(folder, name, trained.classes, recipe.reading)
    examples, split, dataset = train.examples, name, train
    calibration, rest = divide(len(examples), train.name, CALIBRATED_SCENES)
    compared = [examples[i] for i in rest]
    if coco.set_in(test) != "val" and datasets.has_split(folder, "val"):
        dataset = datasets.load(folder, "val", trained.classes, recipe.reading)
        paths = {example.path for example in dataset.examples}
        others = [i for i, example in enumerate(examples) if example.path not in paths]
        if others:
            calibration, split = evenly(others, CALIBRATED_SCENES), "val"
            compared = list(dataset.examples)
    compared = [compared[i] for i in evenly(range(len(compared)), EVALUATED_SCENES)]
    key = "AP[.5:.95]" if train.format == "coco" else "AP50-area"
    return Pictures(
        data=train.name.removesuffix(f" {name}"),
        fingerprint=train.fingerprint,
        split=split,
        calibrated=len(calibration),
        evaluated=len(compared),
        calibration=lambda: (image for image, _ in scenes([examples[i] for i in calibration])),
        evaluation=lambda: scenes(compared),
        measure=key,
        percent=partial(average_precision, dataset, key),
    )


def scenes(examples: Sequence[Example]) -> Iterator[tuple[Array, Example]]:
    """Pictures (1, H, W, 3) with their objects; damaged ones are left out."""

    def read(example: Example) -> tuple[Array, Example]:
        return np.asarray(open_image(example.path))[None], example

    for result in read_ahead(read, examples, 2, AHEAD):
        with suppress(DamagedImage, OSError):
            yield result()


def average_precision(dataset: DetectionDataset, key: str, answers: Answers) -> float:
    """The mean over classes of a measure, in percent. Raises ValueError without objects."""
    detections = [
        Detections(*(torch.from_numpy(array) for array in arrays[: len(OUTPUTS)]))
        for arrays, _ in answers
    ]
    compared = replace(dataset, examples=tuple(example for _, example in answers))
    ap: dict[str, Any] = measure(detections, compared)[key]
    if ap["mean"] is None:
        raise ValueError(f"the pictures of {dataset.name} hold no objects to compare on")
    return float(ap["mean"])
