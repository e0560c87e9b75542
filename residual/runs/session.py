"""A run while a process works on it: every part of the library meets here."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.batches import (
    Preprocessing,
    chosen,
    evaluation_batches,
    per_pixel_mean,
    training_batches,
)
from residual.data.images import Data
from residual.evaluation.errors import PROTOCOLS, Count, best, confusion, count
from residual.files import write_json
from residual.nets.networks import build
from residual.runs import folder
from residual.runs.results import result
from residual.runs.tally import Diverged, Tally
from residual.training import checkpoint, loop
from residual.training.recipe import Recipe, learning_rate, to_json
from residual.world import Setting


@dataclass(frozen=True)
class Watch:
    """How a run is looked after. Nothing here changes a weight."""

    checkpoint_minutes: float = 5.0
    stop: Callable[[], bool] = lambda: False  # asked after each step; then save and raise Stopped


class Stopped(Exception):
    """Training was asked to stop, and the run is saved."""


@dataclass(frozen=True)
class Moment:
    """What training yields after each step, and once more at the end."""

    step: int
    line: dict[str, Any] | None = None  # of the log, at the steps that are logged
    result: dict[str, Any] | None = None  # at the end
    notice: str = ""  # something that a person should know


def log_interval(steps: int) -> int:
    """Steps between two lines of the log: 100 in a full training."""
    return min(100, max(1, steps // 200))


def test_interval(steps: int) -> int:
    """Steps between two looks at the test set, where a figure asks: 1,000 in a full training."""
    wanted, logged = max(steps // 64, min(100, steps // 8)), log_interval(steps)
    return logged * max(1, wanted // logged)


class Session:
    """A run while a process works on it."""

    def __init__(
        self, run: Path, recipe: Recipe, data: Data, known: dict[str, Any], watch: Watch
    ) -> None:
        self.run, self.recipe, self.data, self.known, self.watch = run, recipe, data, known, watch
        self.how = Setting(**known["setting"])
        self.how.apply()
        self.device = torch.device(self.how.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = build(recipe.network, len(data.classes))
        net = self.how.place(net)
        self.learner = loop.start(net, recipe)
        self.tally = Tally.new(self.device)
        self.complaints: list[str] = []
        self.judged: tuple[int, tuple[Count, Tensor]] | None = None
        self.preprocessing = self._take_up()

    def _take_up(self) -> Preprocessing:
        """Put everything back where the newest whole checkpoint has it, if there is one."""
        found = folder.newest(self.run)
        folder.rewind_log(self.run, found[1]["step"] if found else 0)
        if found is None:
            return per_pixel_mean(self.data.train)
        tensors, header, self.complaints = found
        checkpoint.restore(self.learner, tensors, header["step"])
        self.tally = Tally.from_json(header["tally"], self.device)
        height, width = header["size"]
        return Preprocessing(
            tensors["preprocessing.mean"], tensors["preprocessing.std"], (height, width)
        )

    def steps(self) -> Iterator[Moment]:
        """The steps that remain. Raises Stopped, and Diverged with the images of the bad step."""
        try:
            yield from self._steps()
        except Diverged as error:
            seed, size = self.recipe.seed, len(self.data.train)
            ids, _ = chosen(seed, error.step - 1, self.recipe.batch, size)
            rate = learning_rate(self.recipe, error.step - 1)
            raise Diverged(error.loss, error.step, rate, ids.tolist()) from None

    def _steps(self) -> Iterator[Moment]:
        """Each step is logged, saved and looked at where it is due."""
        recipe, tally = self.recipe, self.tally
        saved = time.monotonic()
        precision = self.how.autocast
        for step in loop.train(self.learner, self._batches(), recipe, precision):
            tally.add(step)
            line = None
            last = step.number == recipe.steps
            if last or step.number % log_interval(recipe.steps) == 0:
                line = self._log(step)
            minutes = (time.monotonic() - saved) / 60
            if last or (minutes >= self.watch.checkpoint_minutes and (line or minutes >= 1)):
                tally.check(step)
                self._save()
                saved = time.monotonic()
            if not last and self.watch.stop():
                self._stop(step)
            yield Moment(step.number, line)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches on the device, with the time that was waited for them."""
        recipe = self.recipe
        batches = training_batches(
            self.data.train.to(self.device),
            self.preprocessing.to(self.device),
            batch=recipe.batch,
            seed=recipe.seed,
            padding=recipe.padding,
            mirror=recipe.mirror,
            step=self.learner.step,
        )
        while True:
            begun = time.perf_counter()
            images, labels = next(batches)
            images = images.contiguous(memory_format=self.how.memory_format)
            self.tally.waited += time.perf_counter() - begun
            yield images, labels

    def _log(self, step: loop.Step) -> dict[str, Any]:
        """Write a line of the log. Raises Diverged where the loss is not finite."""
        line = self.tally.line(step)
        steps = self.recipe.steps
        due = step.number == steps or step.number % test_interval(steps) == 0
        if due and self.known["test_curve"]:
            seen, _ = self._judge()
            line |= {
                "test_wrong": seen.wrong_top1,
                "test_seen": seen.seen,
                "test_error": seen.error_top1,
            }
        folder.append_log(self.run, line)
        self.tally.pause()
        return line

    def _judge(self) -> tuple[Count, Tensor]:
        """The error on the headline's set, and the confusion matrix behind it; once for a step."""
        if self.judged and self.judged[0] == self.learner.step:
            return self.judged[1]
        images = self.data.split(self.data.headline)
        batches = evaluation_batches(images.to(self.device), self.preprocessing.to(self.device))
        answers = best([self.learner.net], batches, PROTOCOLS["1crop"]).cpu()
        matrix = confusion(answers[:, 0], images.labels, len(self.data.classes))
        found = count(answers, images.labels, damaged=len(images.damaged)), matrix
        self.judged = self.learner.step, found
        return found

    def _save(self) -> None:
        """Write a checkpoint; the file's header says all that is not a tensor."""
        tensors = checkpoint.of_run(self.learner)
        tensors["preprocessing.mean"] = self.preprocessing.mean
        tensors["preprocessing.std"] = self.preprocessing.std
        header = {
            "step": self.learner.step,
            "network": self.recipe.network,
            "recipe": to_json(self.recipe),
            "classes": list(self.data.classes),
            "size": list(self.preprocessing.size),
            "tally": self.tally.to_json(),
        }
        folder.save(self.run, tensors, header)
        self.tally.pause()

    def _stop(self, step: loop.Step) -> None:
        """Save, and leave. Raises Stopped."""
        self.tally.check(step)
        self.tally.tick()
        self._save()
        raise Stopped(f"stopped at step {step.number}; go on with: residual resume {self.run}")

    def finish(self) -> dict[str, Any]:
        """Open the test set, once, and write the result."""
        judged, matrix = self._judge()
        found = result(
            self.recipe,
            self.data,
            judged,
            folder.read_log(self.run / "log.jsonl"),
            self.known,
            checkpoint.weights_sha256(self.learner.net.state_dict()),
        )
        write_json(self.run / "confusion.json", matrix.tolist())
        write_json(self.run / "result.json", found)
        return found
