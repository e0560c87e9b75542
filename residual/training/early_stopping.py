"""Early stopping, and the count of plateaus, by the validation error."""

from collections.abc import Sequence
from typing import Any

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
        self.errors.append((step, wrong))
        if self.best_step == step:
            self.best = {n: t.detach().clone() for n, t in net.state_dict().items()}

    @property
    def best_step(self) -> int | None:
        """The first step with the least error."""
        best = min(self.errors, key=lambda error: error[1], default=None)
        return best[0] if best and self.patience else None

    @property
    def ended(self) -> bool:
        """Whether the last `patience` errors are no improvement."""
        later = [step for step, _ in self.errors if self.best_step and step > self.best_step]
        return 0 < self.patience <= len(later)

    def plateaus(self, patience: int) -> int:
        """The number of plateaus of the error (Sec. 3.4)."""
        return drops_by_plateau([wrong for _, wrong in self.errors], patience)

    def restore(self, errors: Sequence[Any], best: dict[str, Tensor]) -> None:
        """Restore the state from a checkpoint."""
        self.errors = [(int(step), int(wrong)) for step, wrong in errors]
        self.best = best
