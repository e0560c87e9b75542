"""Sums of losses and errors between two lines of the log, without waiting for the device."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from residual.training.loop import Step

# Attributes of a meter by their keys in a checkpoint.
COUNTS = {"seen": "images"} | {key: key for key in ("steps", "seconds", "since", "waited")}


class Diverged(ArithmeticError):
    """The loss or a weight is not finite."""

    def __init__(
        self, message: str, step: int, lr: float = 0.0, images: Sequence[int] = ()
    ) -> None:
        where = f", at rate {lr:g}, of the images {', '.join(map(str, images))}" if images else ""
        super().__init__(message + where)
        self.step = step


class Meter:
    """Sums since the last line of the log. Only reading a value waits for the device."""

    def __init__(self, device: torch.device | str, names: tuple[str, ...] = ()) -> None:
        self.names = names  # of the parts of the loss
        # Loss, wrong images, steps with a finite loss, and the parts of the loss.
        self.sums = torch.zeros(3 + len(names), device=device)
        self.images = self.steps = 0
        self.seconds = 0.0  # of training in all, also before the run was resumed
        self.waited = 0.0  # seconds of waiting for batches, since the last line
        self.since = 0.0  # seconds at the last line
        self.pause()

    def tick(self) -> None:
        """Count the time since the last tick as training."""
        mark = self._mark
        self.pause()
        self.seconds += self._mark - mark

    def pause(self) -> None:
        """The time since the last tick does not count as training: a checkpoint, an evaluation."""
        self._mark = time.perf_counter()

    def add(self, step: Step) -> None:
        self.sums[0] += step.loss
        if step.wrong is not None:
            self.sums[1] += step.wrong
        self.sums[2] += step.loss.isfinite()
        if step.parts is not None:
            self.sums[3:] += step.parts
        self.images += step.batch_size
        self.steps += 1

    def line(self, step: Step) -> dict[str, Any]:
        """A line of the log. Raises Diverged if the loss is not finite."""
        self.check(step)
        self.tick()
        passed = max(self.seconds - self.since, 1e-9)
        loss, wrong, *_ = self.sums.tolist()
        line = {
            "step": step.number,
            "loss": loss / self.steps,
            **({} if step.wrong is None else {"wrong": int(wrong)}),
            "seen": self.images,
            **({} if step.wrong is None else {"train_error": 100 * int(wrong) / self.images}),
            "lr": step.lr,
            "images_per_second": round(self.images / passed, 1),
            "waiting": round(self.waited / passed, 4),
            "seconds": round(self.seconds, 3),
            **dict(zip(self.names, (self.sums[3:] / self.steps).tolist(), strict=True)),
        }
        self.sums.zero_()
        self.images = self.steps = 0
        self.waited, self.since = 0.0, self.seconds
        return line

    def check(self, step: Step) -> None:
        """Raises Diverged, with the first step whose loss is not finite."""
        loss, _, finite, *_ = self.sums.tolist()
        if not math.isfinite(loss):
            bad = step.number - self.steps + 1 + int(finite)
            raise Diverged(f"the loss of step {bad} is {loss}", bad)

    def to_json(self) -> dict[str, float]:
        """For a checkpoint between two lines of the log."""
        counts = {key: getattr(self, name) for key, name in COUNTS.items()}
        return dict(zip(("loss", "wrong"), self.sums.tolist(), strict=False)) | counts

    def restore(self, values: dict[str, Any], parts: Sequence[float]) -> None:
        """Restore the sums from a checkpoint."""
        finite = values["steps"]  # a checkpoint is written only if all losses are finite
        self.sums += torch.tensor([values["loss"], values["wrong"], finite, *parts]).to(self.sums)
        for key, name in COUNTS.items():
            setattr(self, name, values[key])
        self.pause()  # reading the checkpoint does not count
