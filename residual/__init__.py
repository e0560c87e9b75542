"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015)."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residual.api.evaluate import EvalResult as EvalResult
    from residual.api.evaluate import evaluate as evaluate
    from residual.api.models import Transform as Transform
    from residual.api.models import create_model as create_model
    from residual.api.models import list_models as list_models
    from residual.api.models import load as load
    from residual.api.models import predict as predict
    from residual.api.train import resume as resume
    from residual.api.train import train as train
    from residual.models.registry import build as build
    from residual.training.events import Event as Event

# GNU OpenMP reads these when torch is loaded. By default its threads spin for 300,000 turns while
# they wait for one another, and beside other work that takes most of a training's speed
# (benchmarks/shared_machine.py). What the user has set stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

__version__ = "0.1.0"

NAMES = {
    "residual.api.evaluate": ("EvalResult", "evaluate"),
    "residual.api.models": ("Transform", "create_model", "list_models", "load", "predict"),
    "residual.api.train": ("resume", "train"),
    "residual.models.registry": ("build",),
    "residual.training.events": ("Event",),
}
MODULES = {name: module for module, names in NAMES.items() for name in names}
__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used, so that importing the package is cheap."""
    if name not in MODULES:
        raise AttributeError(f"module 'residual' has no attribute {name!r}")
    return getattr(importlib.import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
