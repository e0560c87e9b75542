"""Of equal scores the lowest class is the better one: in every count, answer and engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.datasets import ImageTensors
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.export.engine import engine, installed
from residual.export.predict import answers as predictions
from residual.runs.load import Trained
from residual.tasks.classification.evaluate import evaluate_ensemble, evaluate_member
from residual.tasks.classification.inference import InferenceOptions, Member, answers
from residual.tasks.classification.load import load
from residual.tasks.classification.metrics import top_k
from residual.tasks.classification.protocols import PROTOCOLS

WORK = InferenceOptions(ComputeConfig())


def slowly(scores: torch.Tensor, k: int) -> list[list[int]]:
    """One picture after another, one class after another."""
    rows = []
    for row in scores.tolist():
        left, found = list(range(len(row))), []
        for _ in range(min(k, len(row))):
            first = left[0]
            for place in left:
                if row[place] > row[first]:
                    first = place
            found.append(first)
            left.remove(first)
        rows.append(found)
    return rows


@pytest.mark.parametrize("classes", [1, 3, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 5])
def test_the_best_are_those_that_a_slow_look_finds(classes, dtype, k):
    draw = torch.Generator().manual_seed(classes)
    scores = torch.randint(0, 4, (40, classes), generator=draw).to(dtype) / 3
    assert top_k(scores, k).tolist() == slowly(scores, k)


@pytest.fixture
def undecided(finished) -> Trained:
    """A network to which all classes look alike."""
    trained = load(finished)
    with torch.no_grad():
        trained.net.fc.weight.zero_()
        trained.net.fc.bias.zero_()
    return trained


def test_counts_confusion_and_ensembles_take_the_lowest_class(undecided):
    data, own = digits(), Member(undecided.net, undecided.preprocessing)
    labels = data.test.labels
    for nets in ([own], [own, own]):
        found = answers(nets, data.test, PROTOCOLS["1crop"], WORK)
        assert (found == torch.arange(5)).all()
    record = evaluate_ensemble([undecided, undecided], data, None, PROTOCOLS["1crop"], WORK).record
    assert record["wrong_top1"] == int((labels != 0).sum())
    assert record["wrong_top5"] == int((labels > 4).sum())
    total, matrix, _ = evaluate_member(own, data.test, 10, WORK)
    assert total.wrong_top1 == record["wrong_top1"]
    assert int(matrix[:, 0].sum()) == len(labels)


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_predictions_take_the_lowest_class_too(undecided, tmp_path: Path, name):
    if name == "onnxruntime" and not installed():
        pytest.skip("ONNX Runtime is not installed")
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(tmp_path / "a.png")
    images = ImageTensors(torch.full((1, 3, 8, 8), 99, dtype=torch.uint8), torch.zeros(1).long())
    told = list(predictions(undecided, [tmp_path / "a.png"], 5, lambda net: engine(net, name)))
    counted = answers(
        [Member(undecided.net, undecided.preprocessing)],
        images,
        PROTOCOLS["1crop"],
        WORK,
    )
    labels = [label["label"] for label in told[0]["labels"]]
    assert labels == [undecided.classes[i] for i in counted[0].tolist()] == list("01234")
