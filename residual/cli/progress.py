"""Progress of long work: a live line on a terminal, plain lines elsewhere. All of it on stderr."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from residual.data.datasets import Progress

SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Time as people say it: `42 s`, `12 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def described(line: dict[str, Any], step: int, steps: int) -> str:
    """A line of the log as a person reads it."""
    speed = line["images_per_second"]
    words = [
        f"step {step:,} of {steps:,}",
        f"loss {line['loss']:.4f}",
        f"rate {line['lr']:g}",
        f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.1f} images/s",
        f"waiting for data {100 * line['waiting']:.0f} %",
    ]
    if "train_error" in line:
        words.insert(2, f"training error {line['train_error']:.2f} %")
    if "test_error" in line:
        words.insert(3, f"test error {line['test_error']:.2f} %")
    if step < steps:
        left = (steps - step) * line["seconds"] / max(step, 1)
        words.append(f"{duration(left)} left")
    return ", ".join(words)


def plain(text: str) -> None:
    """A line on stderr. Where nobody reads any more, the work goes on all the same."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Display:
    """Shows how a training goes on."""

    def __init__(self, name: str, steps: int, speaks: bool = True) -> None:
        self.name, self.steps, self.speaks = name, steps, speaks
        self.console = Console(stderr=True, quiet=not speaks)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.said = -1e9
        self.line: dict[str, Any] = {}

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def notice(self, text: str) -> None:
        if not self.speaks:
            return
        if self.console.is_terminal:
            self.console.print(f"residual: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            plain(f"residual: {text}")

    def show(self, step: int, line: dict[str, Any] | None) -> None:
        """Called after each step; `line` at those that are logged."""
        self.line = line or self.line
        if not self.speaks:
            return
        if self.console.is_terminal:
            if line or step % 10 == 0:
                self.live.update(self._bar(step))
            return
        now = time.monotonic()
        if line and (now - self.said >= SECONDS_BETWEEN_LINES or step == self.steps):
            self.said = now
            plain(f"{self.name}: {described(line, step, self.steps)}")

    def counted(self, done: int, total: int) -> None:
        """Progress of what is measured before the first step."""
        now = time.monotonic()
        if self.speaks and (now - self.said >= SECONDS_BETWEEN_LINES or done == total):
            self.said = now if done < total else self.said
            self.notice(f"measuring the mean of the training set: {done:,} of {total:,} pictures")

    def _bar(self, step: int) -> Table:
        grid = Table.grid(padding=(0, 1))
        words = described(self.line, step, self.steps) if self.line else "first steps"
        grid.add_row(self.name, ProgressBar(self.steps, step, width=24))
        grid.add_row("", words)
        return grid


class SideBySide:
    """Shows the progress of several trainings, each a process that writes plain lines to stderr. A
    terminal shows one table instead, which is drawn from their logs."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.readers: list[threading.Thread] = []
        self.said = 0.0

    def __enter__(self) -> "SideBySide":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for reader in self.readers:
            reader.join(None if error is None else 1)  # after an error trainings may still write
        self.live.stop()

    @property
    def stderr(self) -> int | None:
        """Where a training writes: to a pipe on a terminal, which shows the table."""
        return subprocess.PIPE if self.console.is_terminal else None

    def follow(self, name: str, lines: Iterable[str] | None) -> None:
        """Print the lines of a training, except those of its progress."""

        def read() -> None:
            for line in lines or ():
                if not line.startswith(f"{name}: "):
                    self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

        self.readers.append(threading.Thread(target=read, daemon=True))
        self.readers[-1].start()

    def show(self, done: int, working: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Draw the table, at most once a second: how many trainings have ended, and the name and
        progress of each that has not."""
        if not self.console.is_terminal or time.monotonic() - self.said < 1:
            return
        self.said = time.monotonic()
        grid = Table.grid(padding=(0, 1))
        grid.add_row("trainings", f"{done} of {self.total} done")
        for name, words in working():
            grid.add_row(name, words)
        self.live.update(grid)


@contextmanager
def counting(what: str) -> Iterator["Progress"]:
    """Progress of work that has so many parts, with speed and remaining time."""
    console = Console(stderr=True)
    begun = time.monotonic()
    said = [begun]

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        patience = 0.2 if console.is_terminal else SECONDS_BETWEEN_LINES
        if now - said[0] < patience or not done:
            return
        said[0] = now
        speed = done / max(now - begun, 1e-9)
        left = duration((total - done) / speed)
        digits = 0 if speed >= 10 else 1
        text = f"{what}: {done:,} of {total:,}, {speed:,.{digits}f} per second, {left} left"
        if not console.is_terminal:
            plain(text)
            return
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    yield progress
    if console.is_terminal and said[0] != begun:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if TYPE_CHECKING:
    from residual.distributed import World
    from residual.tasks import TaskModule
    from residual.training.task import Event, RunOptions

Advance = Callable[["RunOptions"], Iterator["Event"]]  # the steps that remain of a run
Record = Callable[[dict[str, Any]], None]


@contextmanager
def joined() -> Iterator["World"]:
    """Among the processes that torchrun, SLURM or MPI started, of which the first alone speaks."""
    from residual.distributed import join, leave

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
    run: Path, steps: int, task: "TaskModule", data: Any, options: ProgressOptions
) -> None:
    """Take the steps that remain of a run, show them, and print how it ended."""
    from residual.cli.train import print_result
    from residual.distributed import current_world

    record = recorder(run) if options.tensorboard and current_world().rank == 0 else None
    result = with_progress(run.name, steps, partial(task.advance, run, data), options, record)
    print_result(run, result, options.as_json)


def with_progress(
    title: str, steps: int, advance: Advance, care: ProgressOptions, record: Record | None = None
) -> dict[str, Any]:
    """Take the steps that remain, and show them. A signal saves the run and ends the command."""
    from residual.distributed import current_world
    from residual.training.task import RunOptions, Stopped

    result: dict[str, Any] = {}
    with asked_to_stop() as caught, Display(title, steps, current_world().rank == 0) as display:
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
