"""Writes a detector as an ONNX model after a comparison with the detector; reads such a model."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from residual.data.decode import open_image
from residual.device import ComputeConfig, check_finite
from residual.export.classifier import Row, check_exportable, metadata, timed, to_list
from residual.export.detector import INPUTS, OUTPUTS, PICTURE, STEPS, detector_graph
from residual.export.graph import open_session
from residual.export.onnx_file import OnnxFile
from residual.storage import damage_errors, json_text, write_atomic
from residual.tasks.detection import loader
from residual.tasks.detection.boxes import (
    STRIDE,
    Detections,
    filter_proposals,
    grid_anchors,
    top_anchors,
)
from residual.tasks.detection.faster_rcnn import postprocess
from residual.tasks.detection.inference import Detect, ImageFeatures, detect_image
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.recipe import Testing
from residual.training.recipe import to_json

Pair = tuple[Tensor, Tensor, float]  # two results that must be equal, within a tolerance

# Tolerances. Networks of all sizes with random weights reached 1e-4, 3e-4 and 0.01.
PROBABILITY = 1e-3
SHIFT = 1e-3  # of a box, in sizes of its anchor
PIXELS = 0.1  # of the resized picture
MATCHING_IOU = 0.99  # of one detection by the detector and by the model


def write_onnx(trained: TrainedDetector, out: Path, testing: Testing | None = None) -> list[Row]:
    """Write an ONNX model for pictures of any size, with classes and preprocessing in its metadata.

    Raises ValueError, and writes nothing, if it differs from the detector, for refinement and for
    several scales, and if ONNX and ONNX Runtime are not installed.
    """
    model, rows = checked_model(trained, testing or Testing())
    write_atomic(out, model)
    return rows


def checked_model(trained: TrainedDetector, testing: Testing) -> tuple[bytes, list[Row]]:
    """The ONNX model, and its comparison with the detector. Raises as `write_onnx`."""
    if testing.refinement or testing.scales:
        raise ValueError("an ONNX model detects at one scale, without refinement")
    check_exportable(trained)
    graph = detector_graph(trained, testing)
    model = graph.serialize(INPUTS, OUTPUTS, detector_metadata(trained, testing))
    return model, list(compare(trained, testing, model))


def detector_metadata(trained: TrainedDetector, testing: Testing) -> dict[str, str]:
    """The metadata of a detector's model."""
    view, recipe = trained.preprocessing, trained.recipe
    size = {"shorter": recipe.shorter, "longest": recipe.longest}  # limits of both sides, in pixels
    values = {"mean": to_list(view.mean.flatten()), "std": to_list(view.std.flatten())}
    entries = metadata(trained, {"task": recipe.task}, True, size, values)
    return entries | {"testing": json_text(to_json(testing))}


def compare(trained: TrainedDetector, testing: Testing, model: bytes) -> Iterator[Row]:
    """Compare the model and the detector on random pictures of several sizes.

    Detections depend on many comparisons of numbers whose last bits differ between kernels. So the
    model's intermediate results are compared, each with what the detector computes from the result
    before it: numbers within a tolerance; sorting, filtering and suppression exactly. A second
    graph keeps every score, so that an untrained detector is compared, too; the model must give
    exactly the best of its detections. Raises ValueError for any difference.
    """
    threads = torch.get_num_threads()
    complete = replace(testing, least=0.0, most=testing.proposals * len(trained.classes))
    graph = detector_graph(trained, complete)
    steps = graph.serialize(INPUTS, {**OUTPUTS, **STEPS}, external=True)
    stepwise, final = open_session(steps, graph.large, threads), open_session(model, {}, threads)
    config = ComputeConfig(threads=threads)
    for picture in examples(trained):
        image = loader.load_image(picture, trained.recipe.shorter, trained.recipe.longest)
        pixels = np.asarray(picture)[None]
        values = run(stepwise, pixels)
        answer, onnxruntime_ms = timed(partial(run, final), pixels)
        best = values["scores"] > testing.least
        pairs = step_pairs(trained, image, values, complete) | {
            f"the best {name}": (answer[name], values[name][best][: testing.most], 0.0)
            for name in OUTPUTS
        }
        apart = differences(trained, pairs)
        detections, torch_ms = timed(lambda x: detect_image([trained], x, testing, config), [image])
        yield {
            **{"height": picture.height, "width": picture.width, "regions": len(values["regions"])},
            "apart": max(apart["objectness"], apart["probabilities"]),
            "pixels": max(apart[name] for name in ("candidates", "boxes of regions", "boxes")),
            "found": len(detections.scores),
            "same": count_matches(detections, Detections(*(answer[name] for name in OUTPUTS))),
            **{"torch_ms": torch_ms, "onnxruntime_ms": onnxruntime_ms},
        }


def run(session: Any, pixels: Any) -> dict[str, Tensor]:
    """All outputs of a session for a picture (1, H, W, 3) uint8, by name."""
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(None, {PICTURE: pixels})
    return {name: torch.from_numpy(array) for name, array in zip(names, outputs, strict=True)}


@torch.no_grad()
def step_pairs(
    trained: TrainedDetector,
    image: loader.ResizedImage,
    values: dict[str, Tensor],
    testing: Testing,
) -> dict[str, Pair]:
    """The model's intermediate results, and those that the detector computes from the result before
    each of them."""
    net, recipe = trained.net, trained.recipe
    inputs = loader.normalize(image, trained.preprocessing, torch.device("cpu"))
    features = ImageFeatures(net, [inputs], image.scale)
    objectness, shifts = (output[0] for output in net.proposing(features.first))
    anchors = grid_anchors(features.first, recipe.scales)
    outputs = values["objectness"], values["anchor_shifts"]
    candidates, ahead = top_anchors(*outputs, anchors, features.size, testing.candidates)
    proposals = values["candidates"], values["ahead"], testing.proposals
    regions, _ = filter_proposals(*proposals, recipe.smallest, image.scale)
    probabilities, boxes = features.predict(values["regions"])
    expected = select(values["probabilities"], values["class_boxes"], testing)
    final = in_order(values["boxes"] * image.scale, values["scores"], values["labels"])
    large = float(shifts.abs().max().clamp(min=1))  # errors of sums are proportional
    return {
        "objectness": (outputs[0].softmax(dim=1), objectness.softmax(dim=1), PROBABILITY),
        "shifts of anchors": (outputs[1] / large, shifts / large, SHIFT),
        "candidates": (values["candidates"], candidates, PIXELS),
        "scores of candidates": (values["ahead"], ahead, 0.0),
        "regions": (values["regions"], regions, 0.0),
        "probabilities": (values["probabilities"], probabilities, PROBABILITY),
        "boxes of regions": (values["class_boxes"], boxes, PIXELS),
        "scores": (final.scores, expected.scores, 0.0),
        "labels": (final.labels, expected.labels, 0.0),
        "boxes": (final.boxes, expected.boxes, PIXELS),
    }


def differences(trained: TrainedDetector, pairs: dict[str, Pair]) -> dict[str, float]:
    """The largest difference of each pair. Raises ValueError above the tolerance."""
    largest = {}
    for name, (one, other, tolerance) in pairs.items():
        reason = "differ in number"
        if one.shape == other.shape:
            largest[name] = float((one - other).abs().max()) if one.numel() else 0.0
            if largest[name] <= tolerance:
                continue
            reason = f"differ by {largest[name]:.2g}; {tolerance:g} is allowed"
        raise ValueError(
            f"nothing is written: the ONNX model of the detector on {trained.network} differs: "
            f"{name} {reason}"
        )
    return largest


def select(probabilities: Tensor, boxes: Tensor, testing: Testing) -> Detections:
    """Detections, class by class: torchvision's suppression of several classes shifts the boxes of
    each class, and so rounds them."""
    by_class = [
        postprocess(probabilities[:, [0, label + 1]], boxes[:, label : label + 1], testing)
        for label in range(boxes.shape[1])
    ]
    return in_order(
        torch.cat([part.boxes for part in by_class]),
        torch.cat([part.scores for part in by_class]),
        torch.cat([part.labels + label for label, part in enumerate(by_class)]),
    )


def in_order(boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    """Detections sorted by score, and equal scores by label and place."""
    order = np.lexsort([key.numpy() for key in (boxes[:, 1], boxes[:, 0], labels, -scores)])
    return Detections(boxes[order], scores[order], labels[order])


def count_matches(detections: Detections, others: Detections) -> int:
    """The number of detections for which others have the same label and nearly the same score and
    box."""
    # No two detections of a class overlap so much that one fits two others.
    match = box_iou(detections.boxes, others.boxes) >= MATCHING_IOU  # (N, M)
    match &= (detections.scores[:, None] - others.scores).abs() <= PROBABILITY
    match &= detections.labels[:, None] == others.labels
    return int(match.any(dim=1).sum())


def examples(trained: TrainedDetector) -> Iterator[Image.Image]:
    """Pictures that are enlarged and reduced, wide, high and tiny, and one of one colour."""
    shorter, rng = trained.recipe.shorter, np.random.default_rng(0)
    wide = 2 * trained.recipe.longest, max(shorter // 4, 4 * STRIDE)  # enough for a row of the map
    for size in ((shorter, shorter * 3 // 4), (shorter, shorter * 3 // 2), wide, (9, 7)):
        yield Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)
    yield Image.new("RGB", (shorter, shorter), (127, 127, 127))


def exported_detector(file: OnnxFile) -> tuple[Detect, tuple[str, ...], Testing]:
    """The detector of an ONNX model, its classes and its limits. Raises ValueError."""
    with damage_errors(file.path):
        if not file.detects:
            raise ValueError(
                f"{file.path} is the model of a classifier, {file['network']}, and finds no objects"
            )
        testing = Testing(**file["testing"] | {"scales": ()})
        labels = tuple(file["labels"])

    def detect(picture: Path | Image.Image) -> Detections:
        outputs = run(file.session, np.asarray(open_image(picture))[None])
        check_finite(outputs, f"detections of {file.path} on {picture}")
        return Detections(*(outputs[name] for name in OUTPUTS))

    return detect, labels, testing
