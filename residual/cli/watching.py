"""A training as a person sees it: progress, signals, and how it ended."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from residual.cli.progress import Display
from residual.storage import json_text

if TYPE_CHECKING:
    from residual.data.datasets import Data
    from residual.distributed import World
    from residual.training.task import Event, RunOptions

Advance = Callable[["RunOptions"], Iterator["Event"]]  # the steps that remain of a run
Tell = Callable[[Path, dict[str, Any], bool], None]  # how a run ended, perhaps as JSON
Record = Callable[[dict[str, Any]], None]


@contextmanager
def joined() -> Iterator["World"]:
    """Among the processes that torchrun, SLURM or MPI started, of which the first alone speaks."""
    from residual.launch import join, leave

    world = join()
    if world.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        yield world
        world.any(False)  # nobody leaves before all are done
    finally:
        leave()


@dataclass(frozen=True)
class ProgressOptions:
    """How a training is looked after and shown."""

    minutes: float = 5.0
    workers: int = 0
    tensorboard: bool = False
    as_json: bool = False


def run_training(
    run: Path,
    steps: int,
    advance: Advance,
    care: ProgressOptions,
    tell: Tell | None = None,
) -> None:
    """Take the steps that remain, show them, and print how it ended."""
    from residual.distributed import here

    record = recorder(run) if care.tensorboard and here().rank == 0 else None
    result = with_progress(run.name, steps, advance, care, record)
    (tell or finished)(run, result, care.as_json)


def of_classes(run: Path, data: "Data") -> Advance:
    """The steps of a classifier's run."""
    from residual.tasks.classification.training import advance

    return lambda watch: advance(run, data, watch)


def with_progress(
    title: str, steps: int, advance: Advance, care: ProgressOptions, record: Record | None = None
) -> dict[str, Any]:
    """Take the steps that remain, and show them. A signal saves the run and ends the command."""
    from residual.distributed import here
    from residual.training.task import RunOptions, Stopped

    result: dict[str, Any] = {}
    with asked_to_stop() as caught, Display(title, steps, here().rank == 0) as display:
        watch = RunOptions(care.minutes, lambda: bool(caught), care.workers, display.counted)
        try:
            for moment in advance(watch):
                result = moment.result or result
                if moment.notice:
                    display.notice(moment.notice)
                display.show(moment.step, moment.line)
                if record and moment.line:
                    record(moment.line)
        except Stopped as stopped:
            display.notice(str(stopped))
            raise typer.Exit(128 + (caught or [signal.SIGTERM])[0]) from None
    return result


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Gathers SIGINT and SIGTERM. The first asks; one that comes a second or more later kills as
    usual, so that an impatient Ctrl-C, Ctrl-C loses nothing."""
    caught: list[int] = []
    asked: list[float] = []
    usual = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        caught.append(number)
        asked.append(time.monotonic())
        if asked[-1] - asked[0] >= 1:
            signal.signal(number, usual[signal.Signals(number)])
            signal.raise_signal(number)

    for each in usual:
        signal.signal(each, note)
    try:
        yield caught
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)


def recorder(run: Path) -> Record:
    """Writes lines of the log for TensorBoard. Raises ValueError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard is not installed; pip install 'residual-learning[tensorboard]'"
        ) from None
    writer = SummaryWriter(str(run / "tensorboard"))

    def record(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name.endswith(("loss", "error", "lr", "per_second")):
                writer.add_scalar(name, value, line["step"])

    return record


def finished(run: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print how a run ended."""
    steps = result.get("steps_taken", result["recipe"]["steps"])
    if as_json:
        keys = ("seen", "wrong_top1", "error_top1", "weights_sha256")
        print(json_text({"run": str(run), "step": steps} | {key: result[key] for key in keys}))
        return
    print(
        f"{result['recipe']['network']} after {steps:,} steps on {result['data']['name']}: "
        f"{result['error_top1']:.2f} % error, {result['wrong_top1']:,} of {result['seen']:,} "
        f"{result['data']['split']} images wrong, one view each"
    )
    print(f"{run} has it; see: residual report {run}")
