"""A run while processes work on it: every part of the library meets here."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.balance import class_weights
from residual.data.batches import Preprocessing, chosen
from residual.data.datasets import Data, Set
from residual.data.loader import Place, refuse_more, workers_that_fit
from residual.device import ComputeConfig
from residual.distributed import here
from residual.finite import NotFinite
from residual.models.registry import build
from residual.runs import folder
from residual.runs.load import preprocessing_of, with_preprocessing
from residual.storage import write_json
from residual.tasks.classification import distillation, loader
from residual.tasks.classification.early_stopping import EarlyStopping
from residual.tasks.classification.inference import Judged, Work, judged
from residual.tasks.classification.metrics import Count
from residual.tasks.classification.results import result, test_view
from residual.training import averaging, batchnorm, checkpoint, loop
from residual.training.meter import Diverged, Meter
from residual.training.recipe import Recipe, learning_rate
from residual.training.task import Event, RunOptions, Stopped, log_interval, test_interval
from residual.training.values import to_json


class Session:
    """A run while processes work on it. The first of them writes; all of them take each step."""

    def __init__(
        self, run: Path, recipe: Recipe, data: Data, known: dict[str, Any], watch: RunOptions
    ) -> None:
        self.run, self.recipe, self.data, self.known, self.watch = run, recipe, data, known, watch
        self.world, self.how = (
            here(),
            ComputeConfig(**known["setting"] | {"processes": here().size}),
        )
        self.device = torch.device(self.how.device)
        self.world.share_of(recipe.batch, recipe.norm_group)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = build(recipe.network, len(data.classes))
        net = self.how.place(net)
        self.learner = loop.start(net, recipe)
        if recipe.balance == "weights":
            weights = class_weights(data.train.labels, len(data.classes))
            self.learner.weights = weights.to(self.device)
        self.tally = Meter.new(self.device)
        self.looks = EarlyStopping(recipe.patience if recipe.schedule != "plateau" else 0)
        self.average: dict[str, Tensor] = {}
        self.skipped: dict[str, str] = {}
        self.notices: list[str] = []
        self.over = False  # trained, and what a training ends with is done
        self.judged: tuple[int, tuple[Count, Tensor, list[str]]] | None = None
        self.preprocessing = own = self._take_up()
        if recipe.lesson != "none":
            self.learner.teacher = distillation.lessons(recipe, known, data.classes, own, self.how)

    def _take_up(self) -> Preprocessing:
        """Put everything back where the newest whole checkpoint has it, if there is one."""
        found = self.world.first(lambda: folder.newest(self.run))
        if self.world.rank == 0:
            folder.rewind_log(self.run, found[1]["step"] if found else 0)
        if found is None:
            if self.recipe.start:
                raise ValueError(f"{self.run} lacks the weights that it begins with; begin it anew")
            if self.recipe.average[0]:
                self.average = averaging.started(self.learner.net)
            own = loader.preprocessing
            return self.world.first(
                lambda: own(self.recipe, self.data, self.watch.workers, self.watch.progress)
            )
        tensors, header, complaints = found
        self.notices += [f"{each}; the one before it is used" for each in complaints]
        checkpoint.restore(self.learner, tensors, header["step"])
        self.learner.plateaus = header.get("plateaus", 0)
        self.average = self._put_back("average.", tensors)
        if self.recipe.average[0] and not self.average:  # weights from elsewhere
            self.average = averaging.started(self.learner.net)
        self.looks.restore(header.get("looks", []), self._put_back("best.", tensors))
        self.skipped = header.get("skipped", {})
        self.over = header.get("over", False)
        if "tally" in header:
            self.tally = Meter.from_json(header["tally"], self.device)
        return preprocessing_of(tensors, header)

    def _put_back(self, prefix: str, tensors: checkpoint.Tensors) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    def steps(self) -> Iterator[Event]:
        """The steps that remain. Raises Stopped, and Diverged with the images of the bad step: its
        loss is not finite, or what it has made of the weights."""
        try:
            if not self.over and not self.looks.ended:
                yield from self._steps()
        except (Diverged, NotFinite) as error:
            step, what = self.learner.step, f"after step {self.learner.step}: {error}"
            if isinstance(error, Diverged):
                step, what = error.step, str(error)
            how, labels = loader.drawing(self.recipe), self.data.train.labels
            ids, _ = chosen(labels, how, step - 1)
            rate = learning_rate(self.recipe, step - 1, self.learner.plateaus)
            raise Diverged(what, step, rate, ids.tolist()) from None

    def _steps(self) -> Iterator[Event]:
        """Each step is logged, saved and looked at where it is due."""
        recipe, tally, every = self.recipe, self.tally, self.recipe.average[0]
        saved = time.monotonic()
        how = loop.Pass(self.how.autocast, self._at_once(), self.world)
        for step in loop.train(self.learner, self._batches(), recipe, how):
            tally.add(step)
            if step.images < how.images and step.images != self.how.at_once:
                self._fewer(step.images)
            if every and step.number % every == 0:
                warming = step.number <= recipe.warmup[0]
                averaging.update(self.average, self.learner.net, recipe.average[1] * (not warming))
            line = None
            last = step.number == recipe.steps
            if last or step.number % log_interval(recipe.steps) == 0:
                line = self._log(step)
                last = last or self.looks.ended
            minutes = (time.monotonic() - saved) / 60
            due = minutes >= self.watch.checkpoint_minutes and (line or minutes >= 1)
            if last or self.world.any(bool(due)):
                tally.check(step)
                self._save()
                saved = time.monotonic()
            if not last and self.world.any(self.watch.stop()):
                self._stop(step)
            yield from self.said()
            yield Event(step.number, line)
            if last:
                return

    def _at_once(self) -> int:
        """Images that pass at once: on a GPU all of this process's, until its memory says no; on a
        processor one norm group, which fits its caches better."""
        if self.how.at_once or self.device.type == "cpu":
            return self.how.at_once
        return self.world.share_of(self.recipe.batch, self.recipe.norm_group)

    def _fewer(self, images: int) -> None:
        """The memory did not hold as many images as it was asked to: the run remembers it."""
        self.how = replace(self.how, at_once=images)
        self.known["setting"] = asdict(self.how)
        self.notices.append(f"the memory holds {images} images at once; no step was lost")
        if self.world.rank == 0:
            write_json(self.run / "environment.json", self.known)

    def said(self) -> Iterator[Event]:
        """What a person should know, and was not told yet."""
        notices, self.notices = self.notices, []
        yield from (Event(self.learner.step, notice=notice) for notice in notices)

    def _hear(self, path: str, why: str) -> None:
        """A damaged picture was replaced by another of its class."""
        if path not in self.skipped:
            self.skipped[path] = why
            self.notices.append(f"{why}; another of its class is taken in its place")

    def _place(self) -> Place:
        fits = workers_that_fit(self.watch.workers, loader.bytes_of_task(self.recipe))
        if fits < self.watch.workers:
            self.notices.append(
                f"/dev/shm has room for the pictures of {fits} workers, not {self.watch.workers}"
            )
        return Place(self.device, fits, self.world, self._hear)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches on the device, with the time that was waited for them."""
        own = loader.batches(
            self.recipe, self.data, self.preprocessing, self._place(), self.learner.step
        )
        while True:
            begun = time.perf_counter()
            images, labels = next(own)
            images = images.contiguous(memory_format=self.how.memory_format)
            self.tally.waited += time.perf_counter() - begun
            yield images, labels

    def _log(self, step: loop.Step) -> dict[str, Any]:
        """Write a line of the log. Raises Diverged where the loss is not finite."""
        line = self.tally.line(step)
        steps = self.recipe.steps
        if step.number == steps or step.number % test_interval(steps) == 0:
            if self.known["test_curve"]:
                seen, _, _ = self._judge()
                line |= looked("test", seen)
            if self.recipe.patience:
                line |= self._look(step.number)
        if self.skipped:
            line["skipped"] = len(self.skipped)
        if self.world.rank == 0:
            folder.append_log(self.run, line)
        self.tally.pause()
        return line

    def _look(self, step: int) -> dict[str, Any]:
        """At the set that choices are made on: for a drop of the rate, or an early end."""
        assert self.data.choices is not None  # training.check has seen to it
        seen, _, _ = self._on(self.data.choices)
        self.looks.add(step, seen, self.learner.net)
        if self.recipe.schedule == "plateau":
            self.learner.plateaus = self.looks.plateaus(self.recipe.patience)
        return looked("val", seen)

    def _on(self, images: Set) -> tuple[Count, Tensor, list[str]]:
        looked_at = Judged(self.learner.net, self.preprocessing, name=self.recipe.network)
        work = Work(self.how.exact(), self.watch.workers)
        return judged(looked_at, images, len(self.data.classes), work)

    def _judge(self) -> tuple[Count, Tensor, list[str]]:
        """On the headline's set, once for a step."""
        if not (self.judged and self.judged[0] == self.learner.step):
            found = self._on(self.data.split(self.data.headline))
            self.judged = self.learner.step, found
        return self.judged[1]

    def _save(self) -> None:
        """Write a checkpoint; the file's header says all that is not a tensor. Raises Damaged where
        all processes together skipped too many pictures."""
        lost = sorted(set(self.world.gathered(list(self.skipped))))
        refuse_more(len(lost), len(self.data.train), lost[-1] if lost else "")
        tensors = checkpoint.of_run(self.learner)
        for prefix, state in (("average.", self.average), ("best.", self.looks.best)):
            tensors |= {f"{prefix}{name}": tensor for name, tensor in state.items()}
        header = {
            "step": self.learner.step,
            "network": self.recipe.network,
            "recipe": to_json(self.recipe),
            "classes": list(self.data.classes),
            "tally": self.tally.to_json(),
            "plateaus": self.learner.plateaus,
            "looks": self.looks.to_json(),
            "skipped": self.skipped,
            "over": self.over,
        }
        tensors, header = with_preprocessing(tensors, header, self.preprocessing)
        self.world.first(lambda: folder.save(self.run, tensors, header))
        self.tally.pause()

    def _stop(self, step: loop.Step) -> None:
        """Save, and leave. Raises Stopped."""
        self.tally.check(step)
        self.tally.tick()
        self._save()
        raise Stopped(f"stopped at step {step.number}; go on with: residual resume {self.run}")

    def _end(self) -> None:
        """What a training ends with: the best or the averaged weights, and true statistics."""
        net, recipe = self.learner.net, self.recipe
        if state := self.looks.best or self.average:
            net.load_state_dict(state)
        if recipe.true_statistics:
            fresh = loader.batches(recipe, self.data, self.preprocessing, self._place())
            steps = -(-min(recipe.true_statistics, len(self.data.train)) // recipe.batch)
            batchnorm.measure(net, self.learner.norms, fresh, steps, self.how.autocast, self.world)
        self.over, self.average, self.looks.best = True, {}, {}
        self._save()

    def finish(self) -> dict[str, Any]:
        """Open the test set, once, and write the result."""
        asks = self.looks.best or self.average or self.recipe.true_statistics
        if asks and not self.over:
            self.judged = None
            self._end()
        seen, matrix, damaged = self._judge()
        skipped = sorted(set(self.world.gathered(list(self.skipped))))

        def write() -> dict[str, Any]:
            found = result(
                self.recipe,
                self.data,
                seen,
                folder.read_log(self.run / "log.jsonl"),
                self.known,
                checkpoint.weights_sha256(self.learner.net.state_dict()),
            )
            found |= {"damaged": damaged, "skipped": skipped, "steps_taken": self.learner.step}
            found |= test_view(self.preprocessing)
            if self.looks.chosen is not None:
                found["chosen_step"] = self.looks.chosen
            write_json(self.run / "confusion.json", matrix.tolist())
            write_json(self.run / "result.json", found)
            return found

        return self.world.first(write)


def looked(name: str, seen: Count) -> dict[str, Any]:
    """A look at a set, for the log."""
    return {
        f"{name}_wrong": seen.wrong_top1,
        f"{name}_seen": seen.seen,
        f"{name}_error": seen.error_top1,
    }
