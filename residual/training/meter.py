"""Sums of losses and errors between two lines of the log, without waiting for the device."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from residual.training.loop import Step


class Diverged(ArithmeticError):
    """The loss or a weight is not finite."""

    def __init__(
        self, message: str, step: int, lr: float = 0.0, images: Sequence[int] = ()
    ) -> None:
        where = f", at rate {lr:g}, of the images {', '.join(map(str, images))}" if images else ""
        super().__init__(message + where)
        self.step = step


@dataclass
class Meter:
    """Sums since the last line of the log. Only reading a value waits for the device."""

    loss: Tensor
    wrong: Tensor
    finite: Tensor  # steps with a finite loss
    parts: Tensor  # of the loss, (P,)
    names: tuple[str, ...] = ()  # of the parts
    images: int = 0
    steps: int = 0
    seconds: float = 0.0  # of training in all, also before the run was resumed
    waited: float = 0.0  # seconds of waiting for batches, since the last line
    since: float = 0.0  # seconds at the last line
    _mark: float = field(default_factory=time.perf_counter)

    @classmethod
    def new(cls, device: torch.device | str, names: tuple[str, ...] = ()) -> "Meter":
        loss, wrong, finite = torch.zeros((3,), device=device).unbind()
        return cls(loss, wrong, finite, torch.zeros(len(names), device=device), names)

    def tick(self) -> float:
        """Seconds since the last tick, which count as training."""
        time_now = time.perf_counter()
        passed, self._mark = time_now - self._mark, time_now
        self.seconds += passed
        return passed

    def pause(self) -> None:
        """The time since the last tick does not count as training: a checkpoint, an evaluation."""
        self._mark = time.perf_counter()

    def add(self, step: Step) -> None:
        self.loss += step.loss
        if step.wrong is not None:
            self.wrong += step.wrong
        if step.parts is not None:
            self.parts += step.parts
        self.finite += step.loss.isfinite()
        self.images += step.batch_size
        self.steps += 1

    def line(self, step: Step) -> dict[str, Any]:
        """A line of the log. Raises Diverged if the loss is not finite."""
        self.check(step)
        self.tick()
        passed = max(self.seconds - self.since, 1e-9)
        wrong = int(self.wrong)
        error = {"train_error": 100 * wrong / self.images} if step.wrong is not None else {}
        line = {
            "step": step.number,
            "loss": float(self.loss) / self.steps,
            **({"wrong": wrong} if error else {}),
            "seen": self.images,
            **error,
            "lr": step.lr,
            "images_per_second": round(self.images / passed, 1),
            "waiting": round(self.waited / passed, 4),
            "seconds": round(self.seconds, 3),
            **dict(zip(self.names, (self.parts / self.steps).tolist(), strict=True)),
        }
        for total in (self.loss, self.wrong, self.finite, self.parts):
            total.zero_()
        self.images = self.steps = 0
        self.waited, self.since = 0.0, self.seconds
        return line

    def check(self, step: Step) -> None:
        """Raises Diverged, with the first step whose loss is not finite."""
        if not math.isfinite(float(self.loss)):
            bad = step.number - self.steps + 1 + int(self.finite)
            raise Diverged(f"the loss of step {bad} is {float(self.loss)}", bad)

    def to_json(self) -> dict[str, float]:
        """For a checkpoint between two lines of the log."""
        return {
            "loss": float(self.loss),
            "wrong": float(self.wrong),
            "seen": self.images,
            "steps": self.steps,
            "seconds": self.seconds,
            "since": self.since,
            "waited": self.waited,
        }

    @classmethod
    def from_json(
        cls,
        values: dict[str, Any],
        device: torch.device | str,
        names: tuple[str, ...] = (),
        parts: Sequence[float] = (),
    ) -> "Meter":
        meter = cls.new(device, names)
        meter.loss += values["loss"]
        meter.wrong += values["wrong"]
        meter.finite += values["steps"]
        meter.parts += torch.tensor(parts, device=device)
        meter.images, meter.steps = values["seen"], values["steps"]
        meter.seconds, meter.since = values["seconds"], values["since"]
        meter.waited = values["waited"]
        return meter
