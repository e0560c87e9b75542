"""What the result of a classifier says of its test, and which of its log it keeps."""

from typing import Any

from residual.data.batches import Preprocessing
from residual.data.datasets import Data
from residual.tasks.classification.metrics import Count


def judgement(data: Data, judged: Count, test_curve: bool) -> dict[str, Any]:
    """What a result says of the test. Errors are in percent."""
    return {
        "data": {"name": data.name, "fingerprint": data.fingerprint, "split": data.headline},
        "protocol": "1crop",
        "test_opened": "for the curve, and after training"
        if test_curve
        else "once, after training",
        "seen": judged.seen,
        "wrong_top1": judged.wrong_top1,
        "wrong_top5": judged.wrong_top5 if len(data.classes) > 5 else None,
        "error_top1": judged.error_top1,
    }


def test_view(before: Preprocessing) -> dict[str, Any]:
    """What of a photograph the test looked at, in pixels, and what was subtracted; small pictures
    are looked at as they are."""
    if before.shorter is None:
        return {}
    image = tuple(before.mean.shape[1:]) != (1, 1)
    return {
        "resize": [before.shorter],
        "crop": list(before.size),
        "mean": "image" if image else "channels",
    }


CURVE = (
    "step",
    "loss",
    "wrong",
    "seen",
    "train_error",
    "lr",
    "test_wrong",
    "test_seen",
    "test_error",
    "val_wrong",
    "val_seen",
    "val_error",
    "skipped",
)
