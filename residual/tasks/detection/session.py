"""A run of a detector while processes work on it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from residual.device import ComputeConfig
from residual.distributed import here
from residual.finite import NotFinite
from residual.models.registry import specify
from residual.runs import folder
from residual.runs.load import preprocessing_of, with_preprocessing
from residual.runs.results import peak_memory
from residual.storage import FORMAT, write_json
from residual.tasks.detection import faster_rcnn, loader, loop, phases
from residual.tasks.detection.evaluate import Work, judge
from residual.tasks.detection.examples import Scenes
from residual.tasks.detection.load import Trained
from residual.tasks.detection.losses import PARTS, Sample
from residual.tasks.detection.recipe import Recipe, Testing
from residual.training import checkpoint
from residual.training.loop import Step
from residual.training.meter import Diverged, Meter
from residual.training.task import Event, RunOptions, Stopped, log_interval
from residual.training.values import to_json

KNOWN = ("setting", "versions", "hardware")
BEGUN = "begun.safetensors"  # the weights of an alternating training, which begins with them twice
CURVE = ("step", "loss", *PARTS, "lr", "skipped")


class Session:
    """The first process writes; all of them take each step."""

    def __init__(
        self, run: Path, recipe: Recipe, train: Scenes, known: dict[str, Any], watch: RunOptions
    ) -> None:
        self.run, self.recipe, self.data, self.known, self.watch = run, recipe, train, known, watch
        self.world, self.how = (
            here(),
            ComputeConfig(**known["setting"] | {"processes": here().size}),
        )
        self.device = torch.device(self.how.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = faster_rcnn.build(recipe, len(train.classes))
        self.learner = loop.start(self.how.place(net), recipe)  # type: ignore[arg-type]
        self.tally = Meter.new(self.device)
        self.parts = torch.zeros(4, device=self.device)
        self.notices: list[str] = []
        self.skipped: dict[str, str] = {}
        self.before = loader.imagenet_preprocessing(
            recipe.shorter, specify(recipe.network).pixel_range
        )
        self._take_up()
        self._told = len(self.skipped)  # of the damaged pictures
        ready = self.before.to(self.device)
        self.supply = loader.Supply(
            train, recipe, ready, self.device, self.world, max(watch.workers, 1), self.skipped
        )

    def _take_up(self) -> None:
        """Put everything back where the newest whole checkpoint has it, if there is one."""
        found = self.world.first(lambda: folder.newest(self.run))
        if found is None and self.recipe.start:
            raise ValueError(f"{self.run} lacks the weights that it begins with; begin it anew")
        if self.world.rank == 0:
            folder.rewind_log(self.run, found[1]["step"] if found else 0)
        if found is None:
            return
        tensors, header, complaints = found
        self.notices += [f"{each}; the one before it is used" for each in complaints]
        checkpoint.restore(self.learner, tensors, header["step"])
        self.before = preprocessing_of(tensors, header)
        self.skipped = header.get("skipped", {})
        if "tally" in header:
            self.tally = Meter.from_json(header["tally"], self.device)
            self.parts += torch.tensor(header["parts"], device=self.device)

    def steps(self) -> Iterator[Event]:
        """The steps that remain. Raises Stopped, and Diverged with the images of the bad step."""
        try:
            yield from self._steps()
        except (Diverged, NotFinite) as error:
            step, what = self.learner.step, f"after step {self.learner.step}: {error}"
            if isinstance(error, Diverged):
                step, what = error.step, str(error)
            ids = [i for *_, i in self.supply.places(step - 1)]
            raise Diverged(what, step, phases.rate(self.recipe, step - 1), ids) from None

    def _steps(self) -> Iterator[Event]:
        """Each step is logged and saved where it is due."""
        self.saved = time.monotonic()
        for stage in phases.remaining(self.recipe, self.learner.step):
            self._enter(stage)
            way = loop.Way(self.how.autocast, self.how.memory_format, self.world)
            until = replace(self.recipe, steps=stage.end)
            rates = partial(phases.rate, self.recipe)
            for step, parts in loop.train(
                self.learner, self._batches(), until, way, stage.parts, rates
            ):
                self.tally.add(step)
                self.parts += parts
                yield from self._after(step, ends=step.number == stage.end)

    def _enter(self, stage: phases.Stage) -> None:
        """Begin a stage, or go on in the middle of it."""
        kept = phases.kept(self.run, stage)
        begins = self.learner.step == stage.first
        if stage.proposals:
            if begins:
                found = phases.proposed(self.learner.net, self.data, self.supply, self.world)
                self.world.first(lambda: checkpoint.save(kept, phases.named(found), {}))
            self.supply.proposals = phases.of_names(checkpoint.read(kept)[0])
        else:
            self.supply.proposals = None
        if begins and stage.number > 1:
            start = self.run / BEGUN
            if self.recipe.start and not start.exists():
                raise ValueError(
                    f"{start} is missing: the weights that the second stage begins with"
                )
            phases.enter(stage, self.learner, checkpoint.read(start)[0] if start.exists() else None)
            self.how.place(self.learner.net)
        phases.hold(stage, self.learner.net)

    def _after(self, step: Step, ends: bool) -> Iterator[Event]:
        """What is due after a step; at the end of a stage it is saved."""
        line = None
        last = step.number == self.recipe.steps
        if last or step.number % log_interval(self.recipe.steps) == 0:
            line = self._log(step)
        minutes = (time.monotonic() - self.saved) / 60
        due = minutes >= self.watch.checkpoint_minutes and (line or minutes >= 1)
        if ends or self.world.any(bool(due)):
            self.tally.check(step)
            self._save()
            self.saved = time.monotonic()
        if not last and self.world.any(self.watch.stop()):
            self.tally.check(step)
            self.tally.tick()
            self._save()
            raise Stopped(f"stopped at step {step.number}; go on with: residual resume {self.run}")
        yield from self.said()
        yield Event(step.number, line)

    def _batches(self) -> Iterator[list[Sample]]:
        """Training batches on the device, with the time that was waited for them."""
        own = self.supply.batches(self.learner.step)
        while True:
            begun = time.perf_counter()
            samples = next(own)
            self.tally.waited += time.perf_counter() - begun
            yield samples

    def _log(self, step: Step) -> dict[str, Any]:
        """Write a line of the log. Raises Diverged where the loss is not finite."""
        steps = self.tally.steps
        line = self.tally.line(step)
        for of_classes in ("wrong", "train_error"):
            del line[of_classes]
        line |= dict(zip(PARTS, (self.parts / steps).tolist(), strict=True))
        self.parts.zero_()
        if self.supply.damaged:
            line["skipped"] = len(self.supply.damaged)
        if self.world.rank == 0:
            folder.append_log(self.run, line)
        self.tally.pause()
        return line

    def said(self) -> Iterator[Event]:
        """What a person should know, and was not told yet."""
        fresh = list(self.supply.damaged.values())[self._told :]
        self._told += len(fresh)
        notices = [*self.notices, *(f"{why}; another is taken in its place" for why in fresh)]
        self.notices = []
        yield from (Event(self.learner.step, notice=notice) for notice in notices)

    def _save(self) -> None:
        """Write a checkpoint; the file's header says all that is not a tensor."""
        header = {
            "step": self.learner.step,
            "network": self.recipe.network,
            "recipe": to_json(self.recipe),
            "classes": list(self.data.classes),
            "tally": self.tally.to_json(),
            "parts": self.parts.tolist(),
            "skipped": self.supply.damaged,
            "sort": self.data.sort,
        }
        own = checkpoint.of_run(self.learner)
        tensors, header = with_preprocessing(own, header, self.before)
        self.world.first(lambda: folder.save(self.run, tensors, header))
        self.tally.pause()

    def finish(self, test: Scenes) -> dict[str, Any]:
        """Open the test set, once, and write the result."""
        net = self.learner.net.eval()
        trained = Trained(net, self.recipe, self.data.classes, self.before, self.learner.step)
        work = Work(self.how.exact(), self.watch.workers, None, self.world)
        judgement = judge([trained], test, Testing(), work)
        skipped = sorted(set(self.world.gathered(list(self.supply.damaged))))

        def write() -> dict[str, Any]:
            log = folder.read_log(self.run / "log.jsonl")
            found = judgement | {
                "format": FORMAT,
                "recipe": to_json(self.recipe),
                "trained_on": {"name": self.data.name, "fingerprint": self.data.fingerprint},
                "curve": [{k: line[k] for k in CURVE if k in line} for line in log],
                "seconds": log[-1]["seconds"],
                "images_per_second": round(
                    self.recipe.steps * self.recipe.batch / max(log[-1]["seconds"], 1e-9), 2
                ),
                "peak_memory_bytes": peak_memory(self.how.device),
                **{k: self.known[k] for k in (*KNOWN, "before") if k in self.known},
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "weights_sha256": checkpoint.weights_sha256(net.state_dict()),
                "skipped": skipped,
                "skipped_boxes": list(self.data.skipped),
            }
            write_json(self.run / "result.json", found)
            return found

        return self.world.first(write)
