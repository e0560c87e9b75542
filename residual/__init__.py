"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015)."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residual.export.predict import predict as predict
    from residual.models.registry import build as build
    from residual.tasks.classification.evaluate import evaluate as evaluate
    from residual.tasks.classification.load import load as load
    from residual.tasks.classification.train import train as train

# GNU OpenMP reads these when torch is loaded. By default its threads spin for 300,000 turns while
# they wait for one another, and beside other work that takes most of a training's speed
# (benchmarks/shared_machine.py). What the user has set stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

__version__ = "0.1.0"
__all__ = ["build", "evaluate", "load", "predict", "train"]

VERBS = {
    "build": "residual.models.registry",
    "evaluate": "residual.tasks.classification.evaluate",
    "load": "residual.tasks.classification.load",
    "predict": "residual.export.predict",
    "train": "residual.tasks.classification.train",
}


def __getattr__(name: str) -> Any:
    """Each verb, imported when it is first asked for, so that importing the package is cheap."""
    if name not in VERBS:
        raise AttributeError(f"module 'residual' has no attribute {name!r}")
    return getattr(importlib.import_module(VERBS[name]), name)
