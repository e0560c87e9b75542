"""A result is one small file: what was trained, on what, how it was judged, and the number."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from residual.data.batches import Preprocessing
from residual.data.datasets import Data
from residual.runs.results import peak_memory
from residual.storage import FORMAT
from residual.tasks.classification.metrics import Count
from residual.training.recipe import Recipe
from residual.training.values import to_json


def result(
    recipe: Recipe,
    data: Data,
    judged: Count,
    log: Sequence[dict[str, Any]],
    known: dict[str, Any],
    weights: str,
) -> dict[str, Any]:
    """The content of a result file, from a finished run. Errors are in percent."""
    seconds = log[-1]["seconds"]
    return {
        "format": FORMAT,
        "recipe": to_json(recipe),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "split": data.headline},
        "protocol": "1crop",
        "test_opened": "for the curve, and after training"
        if known["test_curve"]
        else "once, after training",
        "seen": judged.seen,
        "wrong_top1": judged.wrong_top1,
        "wrong_top5": judged.wrong_top5 if len(data.classes) > 5 else None,
        "error_top1": judged.error_top1,
        "curve": [{k: line[k] for k in CURVE if k in line} for line in log],
        "images_per_second": round(log[-1]["step"] * recipe.batch / max(seconds, 1e-9), 1),
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(known["setting"]["device"]),
        "setting": known["setting"],
        "versions": known["versions"],
        "hardware": known["hardware"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights_sha256": weights,
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
