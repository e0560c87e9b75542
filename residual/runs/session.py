"""Trains a run of any task: logging, checkpoints, stopping and the result."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig, NonFiniteValues
from residual.distributed import World, current_world
from residual.runs import folder
from residual.runs.environment import Named, check_data, check_exact, peak_memory
from residual.storage import FORMAT, read_json, write_json
from residual.training import checkpoint
from residual.training.checkpoint import Tensors, with_preprocessing
from residual.training.events import Event, RunOptions, Stopped, log_interval
from residual.training.loop import Learner, Step
from residual.training.meter import Diverged, Meter
from residual.training.recipe import to_json

Net = TypeVar("Net", bound=nn.Module)


@dataclass
class RunContext:
    """Where and how a task is trained."""

    run: Path
    environment: dict[str, Any]  # content of environment.json
    options: RunOptions
    config: ComputeConfig
    world: World = field(default_factory=World)
    notices: list[str] = field(default_factory=list)  # sentences for the user

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)


class Task(Protocol):
    """What a run needs to know of its task. Two classes satisfy it; there is no base class. Each
    process has an object of its own."""

    recipe: Any  # extends training.recipe.Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    losses: tuple[str, ...]  # names of the parts of the loss, in the log
    curve: tuple[str, ...]  # fields of the log in the result
    skipped: dict[str, str]  # damaged images that were replaced, and the reason
    replacement: str  # which image replaces them, in words

    @property
    def net(self) -> nn.Module: ...

    @property
    def learner(self) -> Learner[Any]: ...

    def begin(self) -> None:
        """Called before the first step, if there is no checkpoint."""

    def restore(self, tensors: Tensors, header: dict[str, Any]) -> None:
        """Restore the state from a checkpoint; the learner is restored already."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The state beside the learner, for a checkpoint: tensors, JSON. All processes call it."""

    def steps(self, timed: Callable[[Iterator[Any]], Iterator[Any]]) -> Iterator[Step]:
        """Take the steps that remain. `timed` measures the time of waiting for batches."""

    def line(self, step: Step) -> dict[str, Any]:
        """Values for a line of the log, beside those of the meter."""

    @property
    def ended(self) -> bool:
        """Whether the training has ended early."""

    def images_of(self, step: int) -> tuple[float, list[int]]:
        """The learning rate and the images of a step, for a message."""

    def complete(self) -> bool:
        """Set the final weights and statistics -> whether they changed."""

    def evaluate(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Evaluate on the test set -> the result, and further JSON files of the run by name."""


class Session:
    """The training of a run. All processes take each step; the first one writes."""

    def __init__(self, task: Task, context: RunContext) -> None:
        self.task, self.context = task, context
        self.meter = Meter(context.device, task.losses)
        self.reported = 0  # skipped images
        self._restore()

    def _restore(self) -> None:
        """Restore the newest whole checkpoint, if there is one."""
        run, world = self.context.run, self.context.world
        newest = world.on_first(lambda: folder.newest(run))
        if world.rank == 0:
            folder.rewind_log(run, newest[1]["step"] if newest else 0)
        if newest is None:
            if self.task.recipe.start:
                raise ValueError(f"{run} lacks the weights that it begins with; begin it anew")
            self.task.begin()
            return
        tensors, header, damaged = newest
        self.context.notices += [f"{sentence}; the one before it is used" for sentence in damaged]
        checkpoint.restore(self.task.learner, tensors, header["step"])
        self.task.restore(tensors, header)
        self.reported = len(self.task.skipped)
        if "tally" in header:
            self.meter.restore(header["tally"], header.get("parts", []))

    def steps(self) -> Iterator[Event]:
        """Take the steps that remain. Raises Stopped, and Diverged, with the images of the step, if
        the loss or a weight is not finite."""
        try:
            if not self.task.ended:
                yield from self._steps()
        except (Diverged, NonFiniteValues) as error:
            step = self.task.learner.step
            message = f"after step {step}: {error}"
            if isinstance(error, Diverged):
                step, message = error.step, str(error)
            raise Diverged(message, step, *self.task.images_of(step - 1)) from None

    def _steps(self) -> Iterator[Event]:
        """Take steps; log and save when it is due."""
        steps, saved = self.task.recipe.steps, time.monotonic()
        options, world = self.context.options, self.context.world
        for step in self.task.steps(self._timed):
            self.meter.add(step)
            line = None
            last = step.number == steps
            if last or step.number % log_interval(steps) == 0:
                line = self._log(step)
                last = last or self.task.ended
            minutes = (time.monotonic() - saved) / 60
            due = minutes >= options.checkpoint_minutes and (line or minutes >= 1)
            if last or step.ends_phase or world.any(bool(due)):
                self._keep(step)
                saved = time.monotonic()
            if not last and world.any(options.stop()):
                self._keep(step)
                command = f"residual resume {self.context.run}"
                raise Stopped(f"stopped at step {step.number}; go on with: {command}")
            try:
                yield from self.notices()
                yield Event(step.number, line)
            except GeneratorExit:  # the caller closes the generator
                if not last and world.size == 1:
                    with suppress(Diverged, NonFiniteValues):  # the last good checkpoint stays
                        self._keep(step)
                raise
            if last:
                return

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; measures the time of waiting for them."""
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self.meter.waited += time.perf_counter() - start
            yield batch

    def notices(self) -> Iterator[Event]:
        """Events for the notices since the last call."""
        reasons = list(self.task.skipped.values())[self.reported :]
        self.reported += len(reasons)
        texts = [
            *self.context.notices,
            *(f"{reason}; {self.task.replacement} is taken in its place" for reason in reasons),
        ]
        self.context.notices.clear()
        yield from (Event(self.task.learner.step, notice=text) for text in texts)

    def _log(self, step: Step) -> dict[str, Any]:
        """Write a line of the log. Raises Diverged if the loss is not finite."""
        line = self.meter.line(step) | self.task.line(step)
        if self.task.skipped:
            line["skipped"] = len(self.task.skipped)
        if self.context.world.rank == 0:
            folder.append_log(self.context.run, line)
        self.meter.pause()
        return line

    def _save(self) -> None:
        """Write a checkpoint."""
        tensors, header = self.task.state()
        tensors |= checkpoint.training_state(self.task.learner)
        header |= {
            "step": self.task.learner.step,
            "network": self.task.recipe.network,
            "recipe": to_json(self.task.recipe),
            "classes": list(self.task.classes),
            "tally": self.meter.to_json(),
            "skipped": self.task.skipped,
        }
        if self.task.losses:
            header["parts"] = self.meter.sums[3:].tolist()
        content = with_preprocessing(tensors, header, self.task.preprocessing)
        self.context.world.on_first(lambda: folder.save(self.context.run, *content))
        self.meter.pause()

    def _keep(self, step: Step) -> None:
        """Save with the time until now. Raises Diverged."""
        self.meter.check(step)
        self.meter.tick()
        self._save()

    def finish(self) -> dict[str, Any]:
        """Evaluate on the test set, once, and write the result."""
        if self.task.complete():
            self._save()
        values, files = self.task.evaluate()
        skipped = sorted(set(self.context.world.all_gather(list(self.task.skipped))))

        def write() -> dict[str, Any]:
            log = folder.read_log(self.context.run / "log.jsonl")
            result = values | self._common(log) | {"skipped": skipped}
            for name, content in files.items():
                write_json(self.context.run / name, content)
            write_json(self.context.run / "result.json", result)
            return result

        return self.context.world.on_first(write)

    def _common(self, log: list[dict[str, Any]]) -> dict[str, Any]:
        """The values that every result holds."""
        recipe, seconds = self.task.recipe, log[-1]["seconds"]
        environment = self.context.environment
        images = log[-1]["step"] * recipe.batch
        return {
            "format": FORMAT,
            "recipe": to_json(recipe),
            "curve": [{k: line[k] for k in self.task.curve if k in line} for line in log],
            "images_per_second": round(images / max(seconds, 1e-9), 2),
            "seconds": seconds,
            "peak_memory_bytes": peak_memory(self.context.config.device),
            **{key: environment[key] for key in ("setting", "versions", "hardware")},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_sha256": checkpoint.weights_sha256(self.task.net.state_dict()),
        }


def advance(
    run: Path,
    data: Named,
    options: RunOptions,
    recipe_of: Callable[[Path], Any],
    task_of: Callable[[Any, Any, RunContext], Task],
) -> Iterator[Event]:
    """Take the steps that remain of a run: all of a new one, none of a finished one.

    `recipe_of` reads the recipe of the run, and `task_of` builds the task from it, the data and the
    context. Torch's settings are the run's only while a step is taken. Raises Stopped after saving,
    Diverged, ValueError for other data, and LockHeld if another process works on the run.
    """

    def contents() -> tuple[Any, dict[str, Any], dict[str, Any] | None]:
        result = run / "result.json"
        finished = read_json(result) if result.exists() else None
        return recipe_of(run), read_json(run / "environment.json"), finished

    with folder.writing(run):
        recipe, environment, result = current_world().on_first(contents)
        if result is not None:
            yield Event(recipe.steps, result=result)
            return
        check_data(run, environment, data)
        config = ComputeConfig(**environment["setting"])
        check_exact(run, environment, config)

        def steps() -> Generator[Event]:
            shared = replace(config, processes=current_world().size)
            context = RunContext(run, environment, options, shared, current_world())
            session = Session(task_of(recipe, data, context), context)
            yield from session.notices()
            yield from session.steps()
            result = session.finish()
            yield from session.notices()
            yield Event(session.task.learner.step, result=result)

        yield from config.iterate(steps())


def start_with(
    recipe: Any, classes: Sequence[str], net: nn.Module, preprocessing: Preprocessing
) -> tuple[Tensors, dict[str, Any]]:
    """The checkpoint of step 0 of a run with initial weights."""
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    header = {
        "step": 0,
        "network": recipe.network,
        "recipe": to_json(recipe),
        "classes": list(classes),
    }
    return with_preprocessing(tensors, header, preprocessing)


def fresh(seed: int, build: Callable[[], Net]) -> Net:
    """Build a network, initialized from a seed. Torch's global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def prefixed(prefix: str, tensors: Tensors, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a checkpoint with a prefix, without the prefix, on a device."""
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
