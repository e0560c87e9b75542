"""Images with boxes, and detections on them, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import DetectionDataset, Example

CLASSES = ("cat", "dog", "bird")
Row = tuple[float, ...]


def example(*rows: Row, label: int = 0) -> Example:
    """Objects as left, top, right, bottom; a fifth number that is not 0 makes one difficult."""
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    hard = torch.tensor([len(row) > 4 and bool(row[4]) for row in rows], dtype=torch.bool)
    return Example(Path("x.jpg"), "x", boxes, torch.full((len(rows),), label), hard)


def found(*rows: Row, label: int = 0) -> Detections:
    """Detections as left, top, right, bottom, score."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], torch.full((len(rows),), label))


def scenes(examples: Sequence[Example], sort: str = "voc") -> DetectionDataset:
    return DetectionDataset("made", CLASSES, tuple(examples), "f" * 64, format=sort)


def random_scenes(seed: int, sort: str = "voc") -> tuple[list[Detections], DetectionDataset]:
    """Objects with integer corners, some difficult; detections near them, twice, beside them and of
    other classes, with few scores, so that many are equal."""
    draw = np.random.default_rng(seed)
    examples, every = [], []
    for picture in range(12):
        n = int(draw.integers(0, 7)) if picture else 0
        corner, size = draw.integers(0, 60, (n, 2)), draw.integers(4, 40, (n, 2))
        boxes = np.concatenate([corner, corner + size], axis=1)
        labels, hard = draw.integers(0, len(CLASSES) - 1, n), draw.random(n) < 0.25
        near = [boxes + draw.integers(-4, 5, (n, 4)) for _ in range(3)]
        far = draw.integers(0, 60, (5, 2))
        guesses = np.concatenate([*near, np.concatenate([far, far + 20], axis=1)])
        own = np.concatenate([labels, labels, labels, draw.integers(0, len(CLASSES), 5)])
        sides = (guesses[:, 2:] > guesses[:, :2]).all(axis=1)
        guesses, own = guesses[sides], own[sides]
        scores = draw.integers(1, 9, len(own)) / 10
        order = np.argsort(-scores, kind="stable")
        tensors = (torch.tensor(each) for each in (boxes.reshape(-1, 4), labels, hard))
        box, label, difficult = tensors
        examples.append(Example(Path("x"), str(picture), box.float(), label.long(), difficult))
        best = (torch.tensor(each[order]) for each in (guesses, scores, own))
        box, score, label = best
        every.append(Detections(box.float(), score.float(), label.long()))
    return every, scenes(examples, sort)
