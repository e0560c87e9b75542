"""Progress of long work on stderr: live bars on a terminal, plain lines elsewhere."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
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
    from residual.training.events import Event, RunOptions

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[["RunOptions"], Iterator["Event"]]  # takes the steps that remain of a run
Record = Callable[[dict[str, Any]], None]


# ---- display ------------------------------------------------------------------------------------


def notify(*sentences: str) -> None:
    """Print notices on stderr."""
    for sentence in sentences:
        typer.echo(f"residual: {sentence}", err=True)


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


class Display:
    """Progress of tasks on stderr: bars on a terminal, plain lines elsewhere."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.console = Console(stderr=True, quiet=not enabled)
        self.live = self.console.is_terminal
        details = TextColumn("{task.fields[details]}", table_column=Column(no_wrap=False))
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(24), details,
            console=self.console, transient=True, refresh_per_second=4,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}
        self.last_time = -1e9
        self.log: dict[str, Any] = {}  # its last line, of a training

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def print(self, text: str) -> None:
        """Print a line, above the bars. The work continues if nobody reads it."""
        if self.live:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self.enabled:
            with suppress(OSError):
                print(text, file=sys.stderr, flush=True)

    def notice(self, text: str) -> None:
        self.print(f"residual: {text}")

    def due(self, seconds: float = SECONDS_BETWEEN_LINES) -> bool:
        """Whether so many seconds have passed since this was last true."""
        if due := time.monotonic() - self.last_time >= seconds:
            self.last_time = time.monotonic()
        return due

    def show_step(self, name: str, step: int, steps: int, line: dict[str, Any] | None) -> None:
        """Update after a step of a training; `line` is that of the log, if the step is logged."""
        self.log = line or self.log
        visible = self.live and step % 10 == 0
        if line:
            visible = self.live or step == steps or self.due()
        if visible and self.enabled:
            details = log_text(self.log, step, steps) if self.log else "first steps"
            self.update(name, step, steps, details)

    def update(self, name: str, done: int, total: int, details: str) -> None:
        """Update the bar of a task, or print its line."""
        if not self.live:
            self.print(f"{name}: {details}")
            return
        self.bars.start()
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, details="")
        self.bars.update(self.tasks[name], total=total, completed=done, details=details)


@contextmanager
def counting(description: str, enabled: bool = True) -> Iterator["Progress"]:
    """Progress of countable work, with speed and remaining time: a function of (done, total)."""
    with Display(enabled) as display:
        start = display.last_time = time.monotonic()

        def progress(done: int, total: int) -> None:
            if not done or not display.due(0.2 if display.live else SECONDS_BETWEEN_LINES):
                return
            speed = done / max(display.last_time - start, 1e-9)
            digits, left = 0 if speed >= 10 else 1, duration((total - done) / speed)
            text = f"{done:,} of {total:,}, {speed:,.{digits}f} per second, {left} left"
            display.update(description, done, total, text)

        yield progress


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
    from residual.training.events import RunOptions, Stopped

    result: dict[str, Any] = {}
    with stop_signals() as signals, Display(current_world().rank == 0) as display:

        def show_measuring(done: int, total: int) -> None:
            if done == total or display.due():
                counts = f"{done:,} of {total:,} pictures"
                display.notice(f"measuring the mean of the training set: {counts}")

        run_options = RunOptions(
            options.minutes, lambda: bool(signals), options.workers, show_measuring
        )
        if display.live:
            display.update(title, 0, steps, "first steps")
        try:
            for event in advance(run_options):
                result = event.result or result
                if event.notice:
                    display.notice(event.notice)
                display.show_step(title, event.step, steps, event.line)
                if record and event.line:
                    record(event.line)
        except Stopped as stopped:
            display.notice(str(stopped))
            raise typer.Exit(128 + (signals or [signal.SIGTERM])[0]) from None
    return result


@contextmanager
def stop_signals() -> Iterator[list[int]]:
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
