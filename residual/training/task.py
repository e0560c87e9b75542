"""How a run is looked after, and what it tells while it goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from residual.data.datasets import Progress, no_progress


@dataclass(frozen=True)
class RunOptions:
    """How a run is looked after. Nothing here changes a weight."""

    checkpoint_minutes: float = 5.0
    stop: Callable[[], bool] = lambda: False  # asked after each step; then save and raise Stopped
    workers: int = 0  # processes that decode photographs
    progress: Progress = no_progress  # of what is measured before the first step


class Stopped(Exception):
    """Training was asked to stop, and the run is saved."""


@dataclass(frozen=True)
class Event:
    """What training yields after each step, and once more at the end."""

    step: int
    line: dict[str, Any] | None = None  # of the log, at the steps that are logged
    result: dict[str, Any] | None = None  # at the end
    notice: str = ""  # something that a person should know


def log_interval(steps: int) -> int:
    """Steps between two lines of the log: 100 in a full training."""
    return min(100, max(1, steps // 200))


def test_interval(steps: int) -> int:
    """Steps between two looks at a set, where they are asked for: 1,000 in a full training."""
    wanted, logged = max(steps // 64, min(100, steps // 8)), log_interval(steps)
    return logged * max(1, wanted // logged)
