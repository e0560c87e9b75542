"""Early stopping by the validation error, and plateaus of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residual.training.optim import drops_by_plateau


class EarlyStopping:
    """The validation errors so far and, with a patience, the weights of the least one."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.errors: list[tuple[int, int]] = []  # (step, wrong images)
        self.best: dict[str, Tensor] = {}

    def add(self, step: int, wrong: int, net: nn.Module) -> None:
        """Add the number of wrong images after a step."""
        better = all(wrong < other for _, other in self.errors)
        self.errors.append((step, wrong))
        if self.patience and better:
            self.best = {n: t.detach().clone() for n, t in net.state_dict().items()}

    @property
    def best_step(self) -> int | None:
        """The first step with the least error."""
        if not self.patience or not self.errors:
            return None
        return min(self.errors, key=lambda error: error[1])[0]

    @property
    def ended(self) -> bool:
        """Whether the last `patience` errors are no improvement."""
        if not self.patience or not self.errors:
            return False
        wrong = [wrong for _, wrong in self.errors]
        return len(wrong) - 1 - wrong.index(min(wrong)) >= self.patience

    def plateaus(self, patience: int) -> int:
        """The number of plateaus of the error (Sec. 3.4)."""
        return drops_by_plateau([float(wrong) for _, wrong in self.errors], patience)

    def restore(self, errors: Sequence[Any], best: dict[str, Tensor]) -> None:
        """Restore the state from a checkpoint."""
        self.errors = [(int(step), int(wrong)) for step, wrong in errors]
        self.best = {name: torch.as_tensor(tensor) for name, tensor in best.items()}
