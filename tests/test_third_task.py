"""A task of one's own is trained, stopped, resumed and evaluated by the session of the others."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from residual.data.datasets import Data
from residual.data.normalization import Preprocessing, per_pixel_mean
from residual.data.rng import permutation
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.runs import folder, session
from residual.runs.environment import environment
from residual.storage import read_json
from residual.training.dropout import Dropouts
from residual.training.events import Event, RunOptions, Stopped
from residual.training.loop import Learner, Step, train


@dataclass(frozen=True)
class Recipe:
    network: str = "one layer"
    start: str = ""
    seed: int = 0
    batch: int = 16
    steps: int = 40


class Brightness:
    """A network of one layer that learns how bright a digit is."""

    losses: tuple[str, ...] = ("square_loss",)
    curve: tuple[str, ...] = ("step", "loss")
    replacement = "another"
    ended = False

    def __init__(self, recipe: Recipe, data: Data, context: session.RunContext) -> None:
        self.recipe, self.data, self.context = recipe, data, context
        self.classes: tuple[str, ...] = ()
        self.skipped: dict[str, str] = {}
        self.preprocessing: Preprocessing = per_pixel_mean(data.train)
        self.net = session.fresh(recipe.seed, lambda: nn.Linear(3 * 8 * 8, 1))
        optimizer = torch.optim.SGD(self.net.parameters(), 0.01, 0.9)
        self.learner = Learner(self.net, optimizer, Dropouts(self.net, 1, 0))

    def begin(self) -> None:
        pass

    def restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        pass

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {}

    def batches(self) -> Iterator[Tensor]:
        step, n = self.learner.step, len(self.data.train)
        while True:
            ids = permutation(self.recipe.seed, step, n)[: self.recipe.batch]
            yield self.data.train.pixels[ids]
            step += 1

    def error(self, pixels: Tensor) -> Tensor:
        answers = self.net(self.preprocessing(pixels).flatten(1))[:, 0]
        return (answers - pixels.float().mean(dim=(1, 2, 3)) / 255).square().mean()

    def gradients(self, pixels: Tensor) -> Tensor:
        loss = self.error(pixels)
        loss.backward()
        return loss.detach()[None]

    def steps(self, timed: Any) -> Iterator[Step]:
        batches, world = timed(self.batches()), self.context.world
        rates = lambda step: (0.01, 0.9)  # noqa: E731
        for lr, values in train(
            self.learner, batches, self.recipe.steps, rates, self.gradients, world
        ):
            number, batch = self.learner.step, self.recipe.batch
            yield Step(number, lr, values[0], None, batch, batch, parts=values)

    def line(self, step: Step) -> dict[str, Any]:
        return {}

    def images_of(self, step: int) -> tuple[float, list[int]]:
        return 0.01, []

    def complete(self) -> bool:
        return False

    def evaluate(self) -> tuple[dict[str, Any], dict[str, Any]]:
        with torch.no_grad():
            error = float(self.error(self.data.test.pixels))
        return {"square_error": error, "seen": len(self.data.test)}, {}


def begin(run: Path) -> Data:
    data = digits()
    known = environment(data, {"where": "digits"}, ComputeConfig())
    folder.create(run, asdict(Recipe()), (), known, {})
    return data


def recipe_of(run: Path) -> Recipe:
    values = read_json(run / "recipe.json")
    return Recipe(**{key: value for key, value in values.items() if key != "format"})


def advance(run: Path, data: Data, options: RunOptions) -> Iterator[Event]:
    return session.advance(run, data, options, recipe_of, Brightness)


def test_it_learns_and_its_result_is_that_of_a_run_which_was_stopped_and_resumed(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    data = begin(whole)
    *_, end = advance(whole, data, RunOptions())
    assert end.result is not None
    assert end.result["curve"][0]["loss"] > 10 * end.result["square_error"]
    begin(parts)
    seen: list[int] = []
    with pytest.raises(Stopped, match="stopped at step 7; go on with: residual resume"):
        for event in advance(parts, data, RunOptions(stop=lambda: len(seen) == 6)):
            seen.append(event.step)
    *_, again = advance(parts, data, RunOptions())
    assert again.result is not None
    for key in ("weights_sha256", "square_error", "seen", "curve"):
        assert again.result[key] == end.result[key]
    assert len(folder.read_log(parts / "log.jsonl")) == 40
    assert "square_loss" in folder.read_log(parts / "log.jsonl")[0]
    *_, finished = advance(parts, data, RunOptions())
    assert finished.result == again.result
