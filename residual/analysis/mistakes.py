"""What a finished run gets wrong on its test images, for its report."""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from residual.analysis.calibration import calibrate
from residual.analysis.explain import explain, resize_longer_side
from residual.data.datasets import Data, ImageFiles, ImageSet, apply_split
from residual.data.decode import DamagedImage, as_image, open_image
from residual.runs.load import Trained
from residual.tasks.classification import inference
from residual.tasks.classification.protocols import get_protocol
from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import DetectionDataset, Example
from residual.tasks.detection.evaluate import EvalOptions, detect_all
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.metrics import match_detections
from residual.tasks.detection.recipe import Testing
from residual.tasks.detection.visualization import draw_boxes

PICTURES = 12  # of a classifier, on the page
SIDE = 200  # pixels of the longer side of such a picture
SCENES, SCENE_SIDE = 8, 640  # pictures of a detector, and the most pixels of their longer sides
MIN_SCORE, MIN_IOU = 0.5, 0.5  # of a detection that is shown, and of one that is right
RIGHT, MISSED, WRONG, IGNORED = 0, 1, 2, -1  # colours 0 to 2 are green, blue, orange


def jpeg(image: Image.Image) -> str:
    """An image as an address with its content."""
    content = BytesIO()
    image.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"


# ---- classifiers --------------------------------------------------------------------------------


def log_probabilities(
    trained: Trained, images: ImageSet, options: inference.InferenceOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each image that can be read (N,): its index, the best class, and the logarithms of the
    probabilities of that class and of the label, from the single view."""
    members, rows, done = [inference.Member(trained.net, trained.preprocessing)], [], 0
    protocol = get_protocol("1crop", average="scores")
    with options.config.activate(), inference.evaluation_mode([trained.net]):
        for ids, read, scores in inference.class_scores(members, images, protocol, options):
            if read:
                logs, rows_read = scores.cpu().log_softmax(dim=1), torch.tensor(read)
                highest, best = logs.max(dim=1)
                of_label = logs.gather(1, images.labels.cpu()[rows_read][:, None])[:, 0]
                rows.append((rows_read, best, highest, of_label))
            options.progress(done := done + len(ids), len(images))
    if not rows:
        raise ValueError("no test image could be read")
    indices, best, highest, of_label = (torch.cat(column) for column in zip(*rows, strict=True))
    return indices, best, highest, of_label


def classifier_mistakes(
    trained: Trained, data: Data, options: inference.InferenceOptions
) -> dict[str, Any]:
    """The images with the highest loss as `mistakes`, and the `calibration`."""
    data = apply_split(data, trained.recipe.split)
    images, trained = data.split(data.headline), trained.placed(options.config)
    ids, best, highest, of_label = log_probabilities(trained, images, options)
    mistakes = []
    for row in of_label.argsort(stable=True)[:PICTURES].tolist():
        i, answer = int(ids[row]), data.classes[int(best[row])]
        if isinstance(images, ImageFiles):
            name, picture = images.name(i), as_image(images.image(i))
        else:
            name = f"{data.headline} image {i}"
            picture = Image.fromarray(images.pixels[i].permute(1, 2, 0).cpu().numpy())
        with options.config.activate():
            result = explain(trained, picture, answer)
        mistakes.append({
            "name": name, "label": data.classes[int(images.labels[i])], "answer": answer,
            "loss": -float(of_label[row]), "label_probability": float(of_label[row].exp()),
            "probability": float(highest[row].exp()), "map": jpeg(result.draw(SIDE)),
            "picture": jpeg(resize_longer_side(picture, SIDE)),
        })  # fmt: skip
    right = best == images.labels.cpu()[ids]
    calibration = calibrate(highest.exp().double().numpy(), right.numpy())
    return {"mistakes": mistakes, "calibration": calibration}


# ---- detectors ----------------------------------------------------------------------------------


def judge(detections: Detections, example: Example, classes: int) -> tuple[Tensor, Tensor]:
    """Whether detections (D,), the best first, are RIGHT, WRONG, or IGNORED as those of difficult
    objects, as average precision at an IoU of 0.5 counts them; and which objects (N,) are missed.
    """
    roles, missed = torch.full((len(detections.scores),), WRONG), ~example.difficult
    for label, one in enumerate(match_detections([detections], [example], classes)):
        rows, hit = torch.nonzero(detections.labels == label)[:, 0], one.iou >= MIN_IOU
        missed[one.objects[hit]] = False
        _, first = np.unique(one.objects[hit].numpy(), return_index=True)
        roles[rows[hit][first]] = RIGHT
        roles[rows[hit & one.difficult]] = IGNORED
    return roles, missed


def detector_mistakes(
    detector: TrainedDetector, dataset: DetectionDataset, options: EvalOptions
) -> dict[str, Any]:
    """The images with the most false positives and misses as `scenes`, and all `counts`."""
    results, _ = detect_all([detector.placed(options.config)], dataset, Testing(), options)
    counts, scenes = {"right": 0, "wrong": 0, "missed": 0}, []
    for example, one in zip(dataset.examples, results, strict=True):
        keep = one.scores >= MIN_SCORE
        detections = Detections(one.boxes[keep], one.scores[keep], one.labels[keep])
        roles, missed = judge(detections, example, len(dataset.classes))
        wrong, misses = int((roles == WRONG).sum()), int(missed.sum())
        counts["right"] += int((roles == RIGHT).sum())
        counts["wrong"] += wrong
        counts["missed"] += misses
        if wrong + misses:
            scenes.append((wrong, misses, example, detections, roles, missed))
    entries = []
    for scene in sorted(scenes, key=lambda scene: -scene[0] - scene[1])[:SCENES]:
        with suppress(DamagedImage, OSError):
            entries.append(scene_entry(dataset.classes, *scene))
    return {"counts": counts, "scenes": entries}


def scene_entry(
    classes: Sequence[str], wrong: int, misses: int, example: Example, detections: Detections,
    roles: Tensor, missed: Tensor,
) -> dict[str, Any]:  # fmt: skip
    """An image with its missed objects, right detections and false positives drawn."""
    image = open_image(example.path)
    scale = min(1.0, SCENE_SIDE / max(image.size))
    image = image.resize((round(scale * image.width), round(scale * image.height)))
    rows = [row for role in (RIGHT, WRONG) for row in torch.nonzero(roles == role)[:, 0].tolist()]
    captions = [classes[label] for label in example.labels[missed].tolist()]
    for row in rows:
        name = f"{classes[int(detections.labels[row])]} {float(detections.scores[row]):.2f}"
        captions.append(name if roles[row] == WRONG else "")
    boxes = scale * torch.cat([example.boxes[missed], detections.boxes[rows]])
    drawn = draw_boxes(image, boxes, captions, [MISSED] * misses + roles[rows].tolist())
    name = example.path.name
    return {"name": name, "wrong": wrong, "missed": misses, "picture": jpeg(drawn)}
