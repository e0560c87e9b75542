"""The environment of a run: data, versions, hardware; and its peak memory."""

import platform
import resource
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch

from residual.device import ComputeConfig, hardware_name

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "simplejpeg")


class Named(Protocol):
    """Data with a name and a fingerprint."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def versions() -> dict[str, str]:
    """Versions of the libraries that can change a bit of a result."""
    installed = {"python": platform.python_version()}
    for name in ("residual-learning", *LIBRARIES):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def environment(data: Named, source: dict[str, str], config: ComputeConfig) -> dict[str, Any]:
    """The content of a run's environment.json."""
    return {
        "data": {**source, "name": data.name, "fingerprint": data.fingerprint},
        "setting": asdict(config),
        "versions": versions(),
        "hardware": hardware_name(config),
    }


def peak_memory(device: str) -> int:
    """Peak memory of this process, or of the allocator on a GPU, in bytes."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
