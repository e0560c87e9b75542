"""The options of a training, the events that it yields, and their intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual.data.datasets import Progress, no_progress


@dataclass(frozen=True)
class RunOptions:
    """Options that do not change the result of a training."""

    checkpoint_minutes: float = 5.0
    stop: Callable[[], bool] = lambda: False  # asked after each step; True: save, raise Stopped
    workers: int = 0  # processes that decode images
    progress: Progress = no_progress  # of measurements before the first step


class Stopped(Exception):
    """The training was asked to stop, and the run is saved."""


@dataclass(frozen=True)
class Event:
    """A training yields an event after each step, and one more with the result."""

    step: int
    line: dict[str, Any] | None = None  # of the log, if the step is logged
    result: dict[str, Any] | None = None  # at the end
    notice: str = ""  # a sentence for the user
    run: Path | None = None  # its folder


def log_interval(steps: int) -> int:
    """Steps between two lines of the log: 100 in a full training."""
    return min(100, max(1, steps // 200))


def evaluation_interval(steps: int) -> int:
    """Steps between two evaluations during a training: 1,000 in a full training."""
    interval, logged = max(steps // 64, min(100, steps // 8)), log_interval(steps)
    return logged * max(1, interval // logged)
