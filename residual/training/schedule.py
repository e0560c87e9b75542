"""When the error plateaus (Sec. 3.4)."""

from collections.abc import Sequence


def drops_by_plateau(errors: Sequence[float], patience: int) -> int:
    """How often so many looks in a row have brought no lower error."""
    drops, best, waited = 0, float("inf"), 0
    for error in errors:
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited == patience:
            drops, waited = drops + 1, 0
    return drops
