"""Learning rates beside fixed drops: cosine decay, and drops when the error plateaus."""

import math
from collections.abc import Sequence


def cosine(step: int, steps: int, lr: float, warmup_steps: int, start_factor: float) -> float:
    """The rate for the step after `step` steps: a linear warm-up, then half a cosine down to 0."""
    # Choice: the rate moves with each step; in torchvision's recipe it moves with each epoch.
    if step < warmup_steps:
        return lr * (start_factor + (1 - start_factor) * step / warmup_steps)
    decay_steps = max(1, steps - warmup_steps)
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / decay_steps))


# Choice: "divided by 10 when the error plateaus" (Sec. 3.4) leaves open what a plateau is. Ours is
# `patience` looks at the validation error in a row of which none lies below the best one before by
# more than `threshold` points. After a drop the counting begins anew; the best one stays.
def drops_by_plateau(errors: Sequence[float], patience: int, threshold: float = 0.0) -> int:
    """How often the rate was divided by 10, given all validation errors (percent) so far."""
    best, waited, drops = math.inf, 0, 0
    for error in errors:
        if error < best - threshold:
            best, waited = error, 0
        else:
            waited += 1
        if waited == patience:
            waited, drops = 0, drops + 1
    return drops
