"""A trained detector for elsewhere, checked before it is written, and read again."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from residual.data.decode import open_image as seen_picture
from residual.device import ComputeConfig, check_finite
from residual.export.classifier import short, timed
from residual.export.engine import MISSING, installed, session_of
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

# What is allowed. Of networks of all sizes, with random weights, we saw 1e-4, 3e-4 and 0.01.
PROBABILITY = 1e-3
SHIFT = 1e-3  # of a box, in sizes of its anchor
PIXELS = 0.1  # of the picture as the detector looks at it
SAME = 0.99  # overlap of a box with itself, found elsewhere

Answers = dict[str, Tensor]  # the outputs of a model by name


@dataclass(frozen=True)
class Parity:
    """What the check found on one picture: the detector beside what is to be written."""

    height: int
    width: int
    regions: int  # that were looked at
    apart: float  # the largest difference between two probabilities
    pixels: float  # between two sides of boxes
    found: int  # detections of the detector
    same: int  # of which so many are in the model's answer, too
    torch_ms: float
    onnxruntime_ms: float


def described(trained: TrainedDetector, testing: Testing) -> dict[str, str]:
    """What a user must know of an exported detector, each as JSON."""
    before, recipe = trained.preprocessing, trained.recipe
    said = {
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
            "mean": short(before.mean.flatten()),
            "std": short(before.std.flatten()),
        },
        "testing": to_json(testing),
    }
    return {key: json_text(value) for key, value in said.items()}


def to_onnx(trained: TrainedDetector, out: Path, testing: Testing | None = None) -> list[Parity]:
    """Write an ONNX model for pictures of any size, with classes and preprocessing in its metadata.

    Raises ValueError, and writes nothing, where it does not find what the detector finds, where it
    is to look twice or at several scales, or where ONNX and ONNX Runtime are not installed.
    """
    testing = testing or Testing()
    if testing.refinement or testing.scales:
        raise ValueError("an ONNX model looks once, at one scale: no refinement and no multi-scale")
    if not installed():
        raise ValueError(f"ONNX {MISSING}")
    check_finite(trained.net.state_dict(), "nothing is written")
    from onnx import helper

    from residual.export.detector import model

    made = model(trained, testing)
    helper.set_model_props(made, described(trained, testing))
    content = made.SerializeToString()
    found = list(parity(trained, content, testing))
    write_atomic(out, content)
    return found


def parity(trained: TrainedDetector, content: bytes, testing: Testing) -> Iterator[Parity]:
    """The model beside the detector, on made-up pictures of several sizes.

    What is found hangs on which of two numbers is greater, many times over, and the last bits of
    a convolution are not the same everywhere. So the model is also asked for its steps, and each is
    compared with what the detector's own code makes of the step before: numbers may differ a
    little, and what was sorted, left out and suppressed by equal numbers may not. Nothing is left
    out for its score, so that a detector that knows nothing yet is compared, too; what is to be
    written must then find exactly the best of that. Raises ValueError where anything differs.
    """
    from residual.export.detector import in_steps

    every = replace(testing, least=0.0, most=testing.proposals * len(trained.classes))
    steps, weights = in_steps(trained, every)
    stepping = session_of(steps, weights, torch.get_num_threads())
    session = session_of(content, {}, torch.get_num_threads())
    how = ComputeConfig(threads=torch.get_num_threads())
    for picture in made_up(trained):
        seen = loader.load_image(as_png(picture), trained.recipe.shorter, trained.recipe.longest)
        pixels = np.asarray(picture)[None]
        own = answered(stepping, pixels)
        numbers, sides = compared(trained, seen, own, every)
        answer, fast = timed(lambda given: answered(session, given), pixels)
        best = own["scores"] > testing.least
        for name in ("boxes", "scores", "labels"):
            if not torch.equal(answer[name], own[name][best][: testing.most]):
                raise ValueError(refusal(trained, f"{name} change with the least score"))
        found, slow = timed(lambda given: detect_image([trained], given, testing, how), [seen])
        same = shared(found, Detections(answer["boxes"], answer["scores"], answer["labels"]))
        sizes = picture.height, picture.width, len(own["regions"])
        yield Parity(*sizes, numbers, sides, len(found.scores), same, slow, fast)


def answered(session: Any, pixels: Any) -> Answers:
    """All outputs for a picture (1, H, W, 3) uint8."""
    names = [each.name for each in session.get_outputs()]
    found = session.run(None, {session.get_inputs()[0].name: pixels})
    return {name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)}


@torch.no_grad()
def compared(
    trained: TrainedDetector, seen: loader.ResizedImage, own: Answers, testing: Testing
) -> tuple[float, float]:
    """The largest differences of the model's steps from the detector's: of a probability, and of
    a side of a box in pixels. Raises ValueError where there are greater ones than are allowed."""
    net, recipe = trained.net, trained.recipe
    image = loader.normalize(seen, trained.preprocessing, torch.device("cpu"))
    look = ImageFeatures(net, [image], seen.scale)
    maps = look.first
    scores, shifts = (each[0] for each in net.proposing(maps))
    told = own["objectness"], own["anchor_shifts"]
    around = grid_anchors(maps, recipe.scales)
    candidates, ahead = top_anchors(*told, around, look.size, testing.candidates)
    least = min_proposal_size(recipe.smallest, seen.scale)
    regions, _ = filter_proposals(own["candidates"], own["ahead"], testing.proposals, least)
    probabilities, boxes = look.predict(own["regions"])
    found = in_order(of_each_class(own["probabilities"], own["class_boxes"], testing))
    theirs = in_order(Detections(own["boxes"] * seen.scale, own["scores"], own["labels"]))
    large = float(shifts.abs().max().clamp(min=1))  # the last bit of sums is in proportion
    differences = {
        "objectness": (told[0].softmax(dim=1), scores.softmax(dim=1), PROBABILITY),
        "shifts of anchors": (told[1] / large, shifts / large, SHIFT),
        "candidates": (own["candidates"], candidates, PIXELS),
        "their order": (own["ahead"], ahead, 0.0),
        "regions": (own["regions"], regions, 0.0),
        "probabilities": (own["probabilities"], probabilities, PROBABILITY),
        "boxes of regions": (own["class_boxes"], boxes, PIXELS),
        "scores": (theirs.scores, found.scores, 0.0),
        "labels": (theirs.labels, found.labels, 0.0),
        "boxes": (theirs.boxes, found.boxes, PIXELS),
    }
    most = {what: distance(*pair[:2]) for what, pair in differences.items()}
    for what, (_, _, allowed) in differences.items():
        if not most[what] <= allowed:  # nor is a number that is none
            by = "in number" if most[what] == float("inf") else f"by {most[what]:.2g}"
            why = f"{what} differ {by}; {allowed:g} is allowed"
            raise ValueError(refusal(trained, why))
    sides = max(most[what] for what in ("candidates", "boxes of regions", "boxes"))
    return max(most["objectness"], most["probabilities"]), sides


def of_each_class(probabilities: Tensor, boxes: Tensor, testing: Testing) -> Detections:
    """What is chosen, class by class: torchvision's suppression of several classes moves the boxes
    of each, and so rounds them."""
    found = [
        postprocess(probabilities[:, [0, label + 1]], boxes[:, label : label + 1], testing)
        for label in range(boxes.shape[1])
    ]
    labels = [each.labels + label for label, each in enumerate(found)]
    parts = [each.boxes for each in found], [each.scores for each in found], labels
    return Detections(*(torch.cat(part) for part in parts))


def refusal(trained: TrainedDetector, why: str) -> str:
    network = trained.recipe.network
    return f"nothing is written, for the ONNX model of the detector on {network} differs: {why}"


def in_order(found: Detections) -> Detections:
    """The best first, and of equal scores by label and place, which no one promises."""
    keys = [found.boxes[:, 1], found.boxes[:, 0], found.labels, -found.scores]
    order = torch.from_numpy(np.lexsort([key.numpy() for key in keys]))
    return Detections(found.boxes[order], found.scores[order], found.labels[order])


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference of two numbers; infinite where there are not as many."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max()) if one.numel() else 0.0


def shared(one: Detections, other: Detections) -> int:
    """How many detections both hold: the same label, about the same score and box."""
    # No two detections of a class overlap so much that one fits two others.
    fits = box_iou(one.boxes, other.boxes) >= SAME  # (N, M)
    fits &= (one.scores[:, None] - other.scores).abs() <= PROBABILITY
    fits &= one.labels[:, None] == other.labels
    return int(fits.any(dim=1).sum())


def made_up(trained: TrainedDetector) -> Iterator[Image.Image]:
    """Pictures that are enlarged and reduced, wide, high and tiny, and one without any object."""
    shorter, longest = trained.recipe.shorter, trained.recipe.longest
    draw = np.random.default_rng(0)
    wide = 2 * longest, max(shorter // 4, 4 * STRIDE)  # not so low that a map has no row
    for size in ((shorter, shorter * 3 // 4), (shorter, shorter * 3 // 2), wide, (9, 7)):
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize(size)
    yield Image.new("RGB", (shorter, shorter), (127, 127, 127))


def as_png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@dataclass(frozen=True)
class Exported:
    """A detector that was read from an ONNX model."""

    find: Detect
    classes: tuple[str, ...]
    testing: Testing


def read(path: Path, threads: int) -> Exported:
    """An exported detector, computed by ONNX Runtime on the processor.

    Raises FileNotFoundError, and ValueError for what is no exported detector.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not installed():
        raise ValueError(f"ONNX Runtime {MISSING}")
    try:
        session = session_of(path.read_bytes(), {}, threads)
    except Exception as error:  # ONNX Runtime has its own for each way in which a model is none
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged or is no ONNX model: {why}") from error
    known = session.get_modelmeta().custom_metadata_map
    if "format" not in known:
        raise ValueError(f"{path} was not written by residual export")
    check_format(path, json.loads(known["format"]))
    if json.loads(known.get("task", '""')) != "detection":
        network = json.loads(known["network"])
        raise ValueError(f"{path} is the model of a classifier, {network}, and finds no objects")
    values = json.loads(known["testing"])

    def find(picture: Path) -> Detections:
        found = answered(session, np.asarray(seen_picture(picture))[None])
        check_finite(found, f"what {path} finds on {picture}")
        return Detections(found["boxes"], found["scores"], found["labels"])

    return Exported(find, tuple(json.loads(known["labels"])), Testing(**values | {"scales": ()}))
