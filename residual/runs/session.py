"""A run while processes work on it: logging, checkpoints, stopping and results of any task."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from residual.data.preprocessing import Preprocessing
from residual.device import ComputeConfig, NonFiniteValues
from residual.distributed import World, current_world
from residual.runs import folder
from residual.runs.results import Named, peak_memory
from residual.runs.resume import exact, same_data
from residual.storage import FORMAT, read_json, write_json
from residual.training import checkpoint
from residual.training.checkpoint import Tensors, with_preprocessing
from residual.training.loop import Step
from residual.training.meter import Diverged, Meter
from residual.training.recipe import to_json
from residual.training.task import Event, RunOptions, Stopped, log_interval

Net = TypeVar("Net", bound=nn.Module)


@dataclass
class RunContext:
    """Where a task is trained: its run, the processes, and how the arithmetic is done."""

    run: Path
    environment: dict[str, Any]  # what the run remembers of its surroundings
    options: RunOptions
    config: ComputeConfig
    world: World = field(default_factory=World)
    notices: list[str] = field(default_factory=list)  # what a person should know

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)


class Task(Protocol):
    """What a run needs to know of what is learnt: images with labels, or with boxes.

    Two classes satisfy it; there is no base class. Every process has one of its own.
    """

    recipe: Any  # a frozen dataclass with at least network, start, seed, batch and steps
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    losses: tuple[str, ...]  # that the log names one by one
    curve: tuple[str, ...]  # fields of the log that a result keeps
    skipped: dict[str, str]  # damaged pictures that were replaced, and why
    replacement: str  # by which, in words

    @property
    def net(self) -> nn.Module: ...

    @property
    def learner(self) -> checkpoint.Learning: ...

    def begin(self) -> None:
        """What a training begins with that no checkpoint holds."""

    def restore(self, tensors: Tensors, header: dict[str, Any]) -> None:
        """Put back what `state` wrote beside the learner."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What a checkpoint holds beside the learner: tensors, JSON. All processes call it."""

    def steps(self, timed: Callable[[Iterator[Any]], Iterator[Any]]) -> Iterator[Step]:
        """Take the steps that remain. `timed` counts the time that is waited for batches."""

    def line(self, step: Step) -> dict[str, Any]:
        """What a line of the log holds beside the meter's values, at the steps that are logged."""

    @property
    def ended(self) -> bool:
        """Whether no further step is to be taken, though some are left."""

    def images_of(self, step: int) -> tuple[float, list[int]]:
        """Of a step, for a message: its learning rate, and its images by number."""

    def complete(self) -> bool:
        """What a training ends with: other weights or statistics -> whether there are any."""

    def evaluate(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Open the test set -> a result's values, and files of the run by name, as JSON."""


class Session:
    """A run while processes work on it. The first of them writes; all of them take each step."""

    def __init__(self, task: Task, context: RunContext) -> None:
        self.task, self.context = task, context
        self.meter = Meter.new(context.device, task.losses)
        self.told = 0  # of the skipped pictures
        self._restore()

    def _restore(self) -> None:
        """Put everything back where the newest whole checkpoint has it, if there is one."""
        run, world = self.context.run, self.context.world
        found = world.on_first(lambda: folder.newest(run))
        if world.rank == 0:
            folder.rewind_log(run, found[1]["step"] if found else 0)
        if found is None:
            if self.task.recipe.start:
                raise ValueError(f"{run} lacks the weights that it begins with; begin it anew")
            self.task.begin()
            return
        tensors, header, complaints = found
        self.context.notices += [f"{each}; the one before it is used" for each in complaints]
        checkpoint.restore(self.task.learner, tensors, header["step"])
        self.task.restore(tensors, header)
        self.told = len(self.task.skipped)
        if "tally" in header:
            parts = header.get("parts", [])
            self.meter = Meter.from_json(
                header["tally"], self.context.device, self.task.losses, parts
            )

    def steps(self) -> Iterator[Event]:
        """The steps that remain. Raises Stopped, and Diverged with the images of the bad step: its
        loss is not finite, or what it has made of the weights."""
        try:
            if not self.task.ended:
                yield from self._steps()
        except (Diverged, NonFiniteValues) as error:
            step = self.task.learner.step
            what = f"after step {step}: {error}"
            if isinstance(error, Diverged):
                step, what = error.step, str(error)
            raise Diverged(what, step, *self.task.images_of(step - 1)) from None

    def _steps(self) -> Iterator[Event]:
        """Each step is logged and saved where it is due."""
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
                self.meter.check(step)
                self._save()
                saved = time.monotonic()
            if not last and world.any(options.stop()):
                self._stop(step)
            yield from self.notices()
            yield Event(step.number, line)
            if last:
                return

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; the time that is waited for them is counted."""
        while True:
            begun = time.perf_counter()
            batch = next(batches)
            self.meter.waited += time.perf_counter() - begun
            yield batch

    def notices(self) -> Iterator[Event]:
        """What a person should know, and was not told yet."""
        fresh = list(self.task.skipped.values())[self.told :]
        self.told += len(fresh)
        texts = [
            *self.context.notices,
            *(f"{why}; {self.task.replacement} is taken in its place" for why in fresh),
        ]
        self.context.notices.clear()
        yield from (Event(self.task.learner.step, notice=text) for text in texts)

    def _log(self, step: Step) -> dict[str, Any]:
        """Write a line of the log. Raises Diverged where the loss is not finite."""
        line = self.meter.line(step) | self.task.line(step)
        if self.task.skipped:
            line["skipped"] = len(self.task.skipped)
        if self.context.world.rank == 0:
            folder.append_log(self.context.run, line)
        self.meter.pause()
        return line

    def _save(self) -> None:
        """Write a checkpoint; the file's header says all that is not a tensor."""
        tensors, header = self.task.state()
        tensors |= checkpoint.of_run(self.task.learner)
        header |= {
            "step": self.task.learner.step,
            "network": self.task.recipe.network,
            "recipe": to_json(self.task.recipe),
            "classes": list(self.task.classes),
            "tally": self.meter.to_json(),
            "skipped": self.task.skipped,
        }
        if self.task.losses:
            header["parts"] = self.meter.parts.tolist()
        content = with_preprocessing(tensors, header, self.task.preprocessing)
        self.context.world.on_first(lambda: folder.save(self.context.run, *content))
        self.meter.pause()

    def _stop(self, step: Step) -> None:
        """Save, and leave. Raises Stopped."""
        self.meter.check(step)
        self.meter.tick()
        self._save()
        raise Stopped(
            f"stopped at step {step.number}; go on with: residual resume {self.context.run}"
        )

    def finish(self) -> dict[str, Any]:
        """Open the test set, once, and write the result."""
        if self.task.complete():
            self._save()
        found, files = self.task.evaluate()
        skipped = sorted(set(self.context.world.all_gather(list(self.task.skipped))))

        def write() -> dict[str, Any]:
            log = folder.read_log(self.context.run / "log.jsonl")
            result = found | self._common(log) | {"skipped": skipped}
            for name, content in files.items():
                write_json(self.context.run / name, content)
            write_json(self.context.run / "result.json", result)
            return result

        return self.context.world.on_first(write)

    def _common(self, log: list[dict[str, Any]]) -> dict[str, Any]:
        """What every result holds: what was trained, how, where and when."""
        recipe, seconds = self.task.recipe, log[-1]["seconds"]
        known = self.context.environment
        images = log[-1]["step"] * recipe.batch
        return {
            "format": FORMAT,
            "recipe": to_json(recipe),
            "curve": [{k: line[k] for k in self.task.curve if k in line} for line in log],
            "images_per_second": round(images / max(seconds, 1e-9), 2),
            "seconds": seconds,
            "peak_memory_bytes": peak_memory(self.context.config.device),
            **{key: known[key] for key in ("setting", "versions", "hardware") if key in known},
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

    `recipe_of` reads the run's recipe, and `task_of` makes a task of it, of the data and of
    where it is trained. Torch's switches are the run's only while a step is taken. Raises Stopped
    and Diverged, after saving or before; ValueError for data of another kind, and where another
    process works on the run.
    """

    def contents() -> tuple[Any, dict[str, Any], dict[str, Any] | None]:
        result = run / "result.json"
        known = read_json(result) if result.exists() else None
        return recipe_of(run), read_json(run / "environment.json"), known

    with folder.writing(run):
        recipe, environment, result = current_world().on_first(contents)
        if result is not None:
            yield Event(recipe.steps, result=result)
            return
        same_data(run, environment, data)
        config = ComputeConfig(**environment["setting"])
        exact(run, environment, config)

        def steps() -> Generator[Event]:
            placed = replace(config, processes=current_world().size)
            context = RunContext(run, environment, options, placed, current_world())
            session = Session(task_of(recipe, data, context), context)
            yield from session.notices()
            yield from session.steps()
            found = session.finish()
            yield from session.notices()
            yield Event(session.task.learner.step, result=found)

        yield from config.iterate(steps())


def start_with(
    recipe: Any, classes: Sequence[str], net: nn.Module, preprocessing: Preprocessing
) -> tuple[Tensors, dict[str, Any]]:
    """The checkpoint before the first step of a run that begins with trained weights."""
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    header = {
        "step": 0,
        "network": recipe.network,
        "recipe": to_json(recipe),
        "classes": list(classes),
    }
    return with_preprocessing(tensors, header, preprocessing)


def fresh(seed: int, build: Callable[[], Net]) -> Net:
    """A network as a seed draws it; torch's own generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def prefixed(prefix: str, tensors: Tensors, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin like this, without it, on a device."""
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
