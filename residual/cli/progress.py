"""Progress of long work on stderr: live bars on a terminal, plain lines elsewhere."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

if TYPE_CHECKING:
    from residual.data.datasets import Progress
    from residual.distributed import World
    from residual.training.task import Event, RunOptions

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[["RunOptions"], Iterator["Event"]]  # takes the steps that remain of a run
Record = Callable[[dict[str, Any]], None]


# ---- display ------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """`42 s`, `12 min` or `3 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def log_text(line: dict[str, Any], step: int, steps: int) -> str:
    """A line of a training's log as text, with the remaining time."""
    speed = line["images_per_second"]
    words = [f"step {step:,} of {steps:,}", f"loss {line['loss']:.4f}"]
    for key, name in (("train_error", "training error"), ("test_error", "test error")):
        words += [f"{name} {line[key]:.2f} %"] if key in line else []
    words += [
        f"rate {line['lr']:g}",
        f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.1f} images/s",
        f"waiting for data {100 * line['waiting']:.0f} %",
    ]
    if step < steps:
        words.append(f"{duration((steps - step) * line['seconds'] / max(step, 1))} left")
    return ", ".join(words)


def print_line(text: str) -> None:
    """Print a line on stderr. The work continues if nobody reads it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def progress_bars(console: Console) -> Bars:
    """A row of description, bar and details for each task."""
    details = TextColumn("{task.fields[details]}", table_column=Column(no_wrap=False))
    return Bars(
        TextColumn("{task.description}"), BarColumn(24), details,
        console=console, transient=True, refresh_per_second=4,
    )  # fmt: skip


class Display:
    """The progress of a training."""

    def __init__(self, name: str, steps: int, enabled: bool = True) -> None:
        self.name, self.steps, self.enabled = name, steps, enabled
        self.console = Console(stderr=True, quiet=not enabled)
        self.bars = progress_bars(self.console)
        self.bar = self.bars.add_task(name, total=steps, details="first steps")
        self.last_time = -1e9
        self.line: dict[str, Any] = {}

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def notice(self, text: str) -> None:
        if not self.enabled:
            return
        if self.console.is_terminal:
            self.console.print(f"residual: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print_line(f"residual: {text}")

    def show(self, step: int, line: dict[str, Any] | None) -> None:
        """Update after a step; `line` is that of the log, if the step is logged."""
        self.line = line or self.line
        if not self.enabled:
            return
        if self.console.is_terminal:
            if line or step % 10 == 0:
                details = log_text(self.line, step, self.steps) if self.line else "first steps"
                self.bars.update(self.bar, completed=step, details=details)
        elif line and self._due(step == self.steps):
            print_line(f"{self.name}: {log_text(line, step, self.steps)}")

    def show_measuring(self, done: int, total: int) -> None:
        """Update while preprocessing is measured, before the first step."""
        if self.enabled and self._due(done == total):
            self.notice(f"measuring the mean of the training set: {done:,} of {total:,} pictures")

    def _due(self, last: bool) -> bool:
        """Whether it is time for a plain line."""
        if last:
            return True
        if due := time.monotonic() - self.last_time >= SECONDS_BETWEEN_LINES:
            self.last_time = time.monotonic()
        return due


class SideBySide:
    """The progress of several trainings, each a process that writes plain lines to stderr. On a
    terminal their logs are shown as bars instead."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True)
        self.bars = progress_bars(self.console)
        self.all = self.bars.add_task("trainings", total=total, details=f"0 of {total} done")
        self.rows: dict[str, TaskID] = {}
        self.readers: list[threading.Thread] = []
        self.last_time = 0.0

    def __enter__(self) -> "SideBySide":
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for reader in self.readers:
            reader.join(None if error is None else 1)  # after an error trainings may still write
        if self.console.is_terminal:
            self.bars.stop()

    @property
    def stderr(self) -> int | None:
        """Where a training writes to: a pipe, if this is a terminal."""
        return subprocess.PIPE if self.console.is_terminal else None

    def follow(self, name: str, lines: Iterable[str] | None) -> None:
        """Print the lines of a training, except those of its progress."""

        def read() -> None:
            for line in lines or ():
                if not line.startswith(f"{name}: "):
                    self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

        self.readers.append(threading.Thread(target=read, daemon=True))
        self.readers[-1].start()

    def show(self, done: int, running: Callable[[], Iterable[tuple[str, int, int, str]]]) -> None:
        """Update the bars, at most once a second: how many trainings have ended, and name, step,
        steps and details of each that runs."""
        if not self.console.is_terminal or time.monotonic() - self.last_time < 1:
            return
        self.last_time = time.monotonic()
        total = self.bars.tasks[0].total
        self.bars.update(self.all, completed=done, details=f"{done} of {total:.0f} done")
        rows = {name: (step, steps, details) for name, step, steps, details in running()}
        for name in self.rows.keys() - rows.keys():
            self.bars.remove_task(self.rows.pop(name))
        for name, (step, steps, details) in rows.items():
            if name not in self.rows:
                self.rows[name] = self.bars.add_task(name, total=steps, details="")
            self.bars.update(self.rows[name], completed=step, details=details)


@contextmanager
def counting(description: str) -> Iterator["Progress"]:
    """Progress of countable work, with speed and remaining time: a function of (done, total)."""
    console = Console(stderr=True)
    bars = progress_bars(console)
    bar = bars.add_task(description, details="")
    start = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        patience = 0.2 if console.is_terminal else SECONDS_BETWEEN_LINES
        if now - last < patience or not done:
            return
        last = now
        speed = done / max(now - start, 1e-9)
        digits, left = 0 if speed >= 10 else 1, duration((total - done) / speed)
        text = f"{done:,} of {total:,}, {speed:,.{digits}f} per second, {left} left"
        if console.is_terminal:
            bars.start()
            bars.update(bar, total=total, completed=done, details=text)
        else:
            print_line(f"{description}: {text}")

    try:
        yield progress
    finally:
        if console.is_terminal:
            bars.stop()


# ---- trainings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgressOptions:
    """How a training is saved and shown."""

    minutes: float = 5.0  # between checkpoints
    workers: int = 0
    tensorboard: bool = False
    as_json: bool = False


@contextmanager
def joined() -> Iterator["World"]:
    """The processes that torchrun or SLURM started; only the first one prints."""
    from residual.distributed import join, leave

    world = join()
    if world.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        yield world
        world.any(False)  # nobody leaves before all are done
    finally:
        leave()


def with_progress(
    title: str,
    steps: int,
    advance: Advance,
    options: ProgressOptions,
    record: Record | None = None,
) -> dict[str, Any]:
    """Take the steps that remain of a run and show them -> its result. A signal saves the run and
    ends the command."""
    from residual.distributed import current_world
    from residual.training.task import RunOptions, Stopped

    result: dict[str, Any] = {}
    is_first = current_world().rank == 0
    with asked_to_stop() as signals, Display(title, steps, is_first) as display:
        run_options = RunOptions(
            options.minutes, lambda: bool(signals), options.workers, display.show_measuring
        )
        try:
            for event in advance(run_options):
                result = event.result or result
                if event.notice:
                    display.notice(event.notice)
                display.show(event.step, event.line)
                if record and event.line:
                    record(event.line)
        except Stopped as stopped:
            display.notice(str(stopped))
            raise typer.Exit(128 + (signals or [signal.SIGTERM])[0]) from None
    return result


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM. The first asks to stop; one that comes at least a second later
    has its usual effect, so that an impatient Ctrl-C, Ctrl-C loses nothing."""
    signals: list[int] = []
    times: list[float] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: object) -> None:
        signals.append(number)
        times.append(time.monotonic())
        if times[-1] - times[0] >= 1:
            signal.signal(number, handlers[signal.Signals(number)])
            signal.raise_signal(number)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def tensorboard_writer(run: Path) -> Record:
    """A function that writes a line of the log for TensorBoard. Raises ValueError if it is not
    installed."""
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
