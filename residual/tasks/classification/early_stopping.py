"""Looks at the val set during a training: when its error stalls, and which weights were best."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residual.tasks.classification.metrics import Count
from residual.training.schedule import drops_by_plateau


class EarlyStopping:
    """What was seen. With patience for an early end, the best weights are kept as well."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.seen: list[tuple[int, int]] = []  # (step, wrong)
        self.best: dict[str, Tensor] = {}

    def add(self, step: int, found: Count, net: nn.Module) -> None:
        """A look after a step."""
        better = all(found.wrong_top1 < wrong for _, wrong in self.seen)
        self.seen.append((step, found.wrong_top1))
        if self.patience and better:
            self.best = {n: t.detach().clone() for n, t in net.state_dict().items()}

    @property
    def chosen(self) -> int | None:
        """The step after which the error was least, and was so first."""
        if not self.patience or not self.seen:
            return None
        return min(self.seen, key=lambda look: look[1])[0]

    @property
    def ended(self) -> bool:
        """Whether so many looks have gained nothing that the training ends."""
        if not self.patience or not self.seen:
            return False
        wrong = [each for _, each in self.seen]
        return len(wrong) - 1 - wrong.index(min(wrong)) >= self.patience

    def plateaus(self, patience: int) -> int:
        """How often the error has stalled (Sec. 3.4)."""
        return drops_by_plateau([float(wrong) for _, wrong in self.seen], patience)

    def to_json(self) -> list[tuple[int, int]]:
        return self.seen

    def restore(self, seen: Sequence[Any], best: dict[str, Tensor]) -> None:
        """Put back what a checkpoint holds."""
        self.seen = [(int(step), int(wrong)) for step, wrong in seen]
        self.best = {name: torch.as_tensor(tensor) for name, tensor in best.items()}
