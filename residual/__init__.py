"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015)."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residual.deployment.prediction import predict as predict
    from residual.rivals.networks import build as build
    from residual.runs.evaluating import evaluate as evaluate
    from residual.runs.loading import load as load
    from residual.runs.training import train as train

# GNU OpenMP reads these when torch is loaded. By default its threads spin for 300,000 turns while
# they wait for one another, and beside other work that takes most of a training's speed
# (benchmarks/shared_machine.py). What the user has set stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

__version__ = "0.1.0"
__all__ = ["build", "evaluate", "load", "predict", "train"]

VERBS = {
    "build": "residual.rivals.networks",
    "evaluate": "residual.runs.evaluating",
    "load": "residual.runs.loading",
    "predict": "residual.deployment.prediction",
    "train": "residual.runs.training",
}


def __getattr__(name: str) -> Any:
    """Each verb, imported when it is first asked for, so that importing the package is cheap."""
    if name not in VERBS:
        raise AttributeError(f"module 'residual' has no attribute {name!r}")
    return getattr(importlib.import_module(VERBS[name]), name)
