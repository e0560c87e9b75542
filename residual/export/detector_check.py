"""The ONNX model of a detector, compared with the detector before it is written, and read again."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from residual.data.decode import open_image
from residual.device import ComputeConfig, check_finite
from residual.export.classifier import timed, to_list
from residual.export.detector import INPUTS, OUTPUTS, PICTURE, STEPS, detector_graph
from residual.export.graph import MISSING, installed, open_session
from residual.storage import FORMAT, check_format, json_text, write_atomic
from residual.tasks.detection import loader
from residual.tasks.detection.boxes import (
    STRIDE,
    Detections,
    filter_proposals,
    grid_anchors,
    min_proposal_size,
    top_anchors,
)
from residual.tasks.detection.faster_rcnn import postprocess
from residual.tasks.detection.inference import Detect, ImageFeatures, detect_image
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.recipe import Testing
from residual.training.checkpoint import weights_sha256
from residual.training.recipe import to_json

# Tolerances. Networks of all sizes with random weights reached 1e-4, 3e-4 and 0.01.
PROBABILITY = 1e-3
SHIFT = 1e-3  # of a box, in sizes of its anchor
PIXELS = 0.1  # of the resized picture
SAME_IOU = 0.99  # of one detection by the detector and by the model


@dataclass(frozen=True)
class DetectorParity:
    """Comparison of a detector and its ONNX model on one picture."""

    height: int
    width: int
    regions: int
    apart: float  # the largest difference between two probabilities
    pixels: float  # the largest difference between two coordinates of boxes
    found: int  # detections of the detector
    same: int  # detections of the detector that are also the model's
    torch_ms: float
    onnxruntime_ms: float


def write_onnx(
    trained: TrainedDetector, out: Path, testing: Testing | None = None
) -> list[DetectorParity]:
    """Write an ONNX model for pictures of any size, with classes and preprocessing in its metadata.

    Raises ValueError, and writes nothing, if it differs from the detector, for refinement and for
    several scales, and if ONNX and ONNX Runtime are not installed.
    """
    testing = testing or Testing()
    if testing.refinement or testing.scales:
        raise ValueError("an ONNX model looks once, at one scale: no refinement and no multi-scale")
    if not installed():
        raise ValueError(f"ONNX {MISSING}")
    check_finite(trained.net.state_dict(), "nothing is written")
    graph = detector_graph(trained, testing)
    model = graph.serialize(INPUTS, OUTPUTS, metadata(trained, testing))
    rows = list(compare(trained, model, testing))
    write_atomic(out, model)
    return rows


def metadata(trained: TrainedDetector, testing: Testing) -> dict[str, str]:
    """What the user of an exported detector must know, as JSON by key."""
    before, recipe = trained.preprocessing, trained.recipe
    values = {
        "format": FORMAT,
        "task": recipe.task,
        "network": recipe.network,
        "source": f"trained by residual, {trained.step} steps",
        "weights_sha256": weights_sha256(trained.net.state_dict()),
        "labels": list(trained.classes),
        "preprocessing": {
            "inside": True,
            "colours": "RGB",
            "shorter": recipe.shorter,  # pixels of the shorter side,
            "longest": recipe.longest,  # unless the longer one would have more than these
            "interpolation": "bilinear, antialiased",
            "divisor": 255,
            "mean": to_list(before.mean.flatten()),
            "std": to_list(before.std.flatten()),
        },
        "testing": to_json(testing),
    }
    return {key: json_text(value) for key, value in values.items()}


def compare(trained: TrainedDetector, model: bytes, testing: Testing) -> Iterator[DetectorParity]:
    """Compare the model and the detector on made-up pictures of several sizes.

    Detections depend on many comparisons of numbers whose last bits differ between kernels. So the
    model's intermediate results are compared, each with what the detector computes from the result
    before it: numbers within a tolerance; sorting, filtering and suppression exactly. A second
    graph keeps every score, so that an untrained detector is compared, too; the model must give
    exactly the best of its detections. Raises ValueError for any difference.
    """
    threads = torch.get_num_threads()
    every = replace(testing, least=0.0, most=testing.proposals * len(trained.classes))
    graph = detector_graph(trained, every)
    steps = graph.serialize(INPUTS, {**OUTPUTS, **STEPS}, external=True)
    stepwise, final = open_session(steps, graph.large, threads), open_session(model, {}, threads)
    config = ComputeConfig(threads=threads)
    for picture, content in examples(trained):
        seen = loader.load_image(content, trained.recipe.shorter, trained.recipe.longest)
        pixels = np.asarray(picture)[None]
        values = run(stepwise, pixels)
        sides = compare_steps(trained, seen, values, every)
        answer, onnxruntime_ms = timed(lambda x: run(final, x), pixels)
        best = values["scores"] > testing.least
        for name in OUTPUTS:
            if not torch.equal(answer[name], values[name][best][: testing.most]):
                raise ValueError(difference(trained, f"{name} change with the least score"))
        found, torch_ms = timed(lambda x: detect_image([trained], x, testing, config), [seen])
        same = count_same(found, Detections(*(answer[name] for name in OUTPUTS)))
        counts = len(values["regions"]), *sides, len(found.scores), same
        yield DetectorParity(picture.height, picture.width, *counts, torch_ms, onnxruntime_ms)


def difference(trained: TrainedDetector, reason: str) -> str:
    """The message for a model that differs."""
    network = trained.recipe.network
    return f"nothing is written: the ONNX model of the detector on {network} differs: {reason}"


def run(running: Any, pixels: Any) -> dict[str, Tensor]:
    """All outputs of a session for a picture (1, H, W, 3) uint8, by name."""
    names = [output.name for output in running.get_outputs()]
    outputs = running.run(None, {PICTURE: pixels})
    return {name: torch.from_numpy(array) for name, array in zip(names, outputs, strict=True)}


@torch.no_grad()
def compare_steps(
    trained: TrainedDetector, seen: loader.ResizedImage, values: dict[str, Tensor], testing: Testing
) -> tuple[float, float]:
    """The largest differences between the model's intermediate results and the detector's: of
    probabilities, and of coordinates of boxes in pixels. Raises ValueError above the tolerance."""
    net, recipe = trained.net, trained.recipe
    image = loader.normalize(seen, trained.preprocessing, torch.device("cpu"))
    features = ImageFeatures(net, [image], seen.scale)
    objectness, shifts = (output[0] for output in net.proposing(features.first))
    anchors = grid_anchors(features.first, recipe.scales)
    given = values["objectness"], values["anchor_shifts"]
    candidates, ahead = top_anchors(*given, anchors, features.size, testing.candidates)
    smallest = min_proposal_size(recipe.smallest, seen.scale)
    regions, _ = filter_proposals(
        values["candidates"], values["ahead"], testing.proposals, smallest
    )
    probabilities, boxes = features.predict(values["regions"])
    expected = select(values["probabilities"], values["class_boxes"], testing)
    found = in_order(values["boxes"] * seen.scale, values["scores"], values["labels"])
    large = float(shifts.abs().max().clamp(min=1))  # errors of sums are proportional
    pairs = {
        "objectness": (given[0].softmax(dim=1), objectness.softmax(dim=1), PROBABILITY),
        "shifts of anchors": (given[1] / large, shifts / large, SHIFT),
        "candidates": (values["candidates"], candidates, PIXELS),
        "their order": (values["ahead"], ahead, 0.0),
        "regions": (values["regions"], regions, 0.0),
        "probabilities": (values["probabilities"], probabilities, PROBABILITY),
        "boxes of regions": (values["class_boxes"], boxes, PIXELS),
        "scores": (found.scores, expected.scores, 0.0),
        "labels": (found.labels, expected.labels, 0.0),
        "boxes": (found.boxes, expected.boxes, PIXELS),
    }
    largest: dict[str, float] = {}
    for name, (one, other, tolerance) in pairs.items():
        if one.shape != other.shape:
            raise ValueError(difference(trained, f"{name} differ in number"))
        largest[name] = float((one - other).abs().max()) if one.numel() else 0.0
        if not largest[name] <= tolerance:  # NaN is not, either
            reason = f"{name} differ by {largest[name]:.2g}; {tolerance:g} is allowed"
            raise ValueError(difference(trained, reason))
    sides = max(largest[name] for name in ("candidates", "boxes of regions", "boxes"))
    return max(largest["objectness"], largest["probabilities"]), sides


def select(probabilities: Tensor, boxes: Tensor, testing: Testing) -> Detections:
    """Detections, class by class: torchvision's suppression of several classes shifts the boxes of
    each, and so rounds them."""
    found = [
        postprocess(probabilities[:, [0, label + 1]], boxes[:, label : label + 1], testing)
        for label in range(boxes.shape[1])
    ]
    labels = [part.labels + label for label, part in enumerate(found)]
    parts = [part.boxes for part in found], [part.scores for part in found], labels
    return in_order(*(torch.cat(part) for part in parts))


def in_order(boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    """Detections sorted by score, and equal scores by label and place."""
    order = np.lexsort([key.numpy() for key in (boxes[:, 1], boxes[:, 0], labels, -scores)])
    return Detections(boxes[order], scores[order], labels[order])


def count_same(found: Detections, others: Detections) -> int:
    """How many detections both have: the same label, and nearly the same score and box."""
    # No two detections of a class overlap so much that one fits two others.
    same = box_iou(found.boxes, others.boxes) >= SAME_IOU  # (N, M)
    same &= (found.scores[:, None] - others.scores).abs() <= PROBABILITY
    same &= found.labels[:, None] == others.labels
    return int(same.any(dim=1).sum())


def examples(trained: TrainedDetector) -> Iterator[tuple[Image.Image, bytes]]:
    """Pictures, also as PNG: enlarged and reduced, wide, high and tiny, and one of one colour."""
    shorter, longest = trained.recipe.shorter, trained.recipe.longest
    draw = np.random.default_rng(0)
    wide = 2 * longest, max(shorter // 4, 4 * STRIDE)  # high enough for a row of the map
    pictures = [
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)
        for size in ((shorter, shorter * 3 // 4), (shorter, shorter * 3 // 2), wide, (9, 7))
    ]
    for picture in (*pictures, Image.new("RGB", (shorter, shorter), (127, 127, 127))):
        content = BytesIO()
        picture.save(content, "PNG")
        yield picture, content.getvalue()


@dataclass(frozen=True)
class Exported:
    """A detector read from an ONNX model."""

    find: Detect
    classes: tuple[str, ...]
    testing: Testing


def read(path: Path, threads: int) -> Exported:
    """A detector in an ONNX model, run by ONNX Runtime on the CPU.

    Raises FileNotFoundError, and ValueError for any other file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not installed():
        raise ValueError(f"ONNX Runtime {MISSING}")
    try:
        running = open_session(path.read_bytes(), {}, threads)
    except Exception as error:  # ONNX Runtime has an exception for each kind of damage
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged or is no ONNX model: {reason}") from error
    texts = running.get_modelmeta().custom_metadata_map
    if "format" not in texts:
        raise ValueError(f"{path} was not written by residual export")
    values = {key: json.loads(text) for key, text in texts.items()}
    check_format(path, values["format"])
    if values.get("task") != "detection":
        raise ValueError(
            f"{path} is the model of a classifier, {values['network']}, and finds no objects"
        )

    def find(picture: Path) -> Detections:
        outputs = run(running, np.asarray(open_image(picture))[None])
        check_finite(outputs, f"detections of {path} on {picture}")
        return Detections(*(outputs[name] for name in OUTPUTS))

    testing = Testing(**values["testing"] | {"scales": ()})
    return Exported(find, tuple(values["labels"]), testing)
