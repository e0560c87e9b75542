"""How far a long preparation is, told to whoever asked."""

import time
from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)


def unhurried(progress: Progress | None, seconds: float = 0.1) -> Progress:
    """The same reports at most every so often, and always the last one, where done equals total."""
    next_one = 0.0

    def report(done: int, total: int) -> None:
        nonlocal next_one
        now = time.monotonic()
        if progress is not None and (now >= next_one or done == total):
            next_one = now + seconds
            progress(done, total)

    return report
