"""A network of one's own: a function, a row, a recipe (docs/architecture.md)."""

from dataclasses import replace

import pytest
from PIL import Image
from torch import nn

import residual
from residual.models.registry import BASELINES, Baseline
from residual.tasks.classification.baseline_recipes import RECIPES
from residual.tasks.classification.recipe import DIGITS


def tiny(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


@pytest.fixture(autouse=True)
def added(monkeypatch):
    monkeypatch.setitem(BASELINES, "tiny", Baseline(2, 32, tiny))
    recipe = replace(DIGITS, network="tiny", batch=16, norm_group=16, steps=4, drops=())
    monkeypatch.setitem(RECIPES, "tiny", recipe)


def test_it_is_built_trained_judged_and_put_to_use(tmp_path):
    run = tmp_path / "run"
    *_, end = residual.train("tiny", out=run)
    assert end.result["recipe"]["batch"] == 16 and end.result["seen"] == 360
    assert residual.build("tiny", classes=3)[-1].out_features == 3
    assert residual.load(run).network == "tiny"
    judged = residual.evaluate(run, "digits")
    assert judged.wrong_top1 == end.result["wrong_top1"]
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.png")
    (answer,) = residual.predict(run, [tmp_path / "grey.png"])
    assert len(answer["labels"]) == 5
