"""What a run remembers of its surroundings: data, versions, hardware; and its peak memory."""

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
    """Data that a run was trained on."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def versions() -> dict[str, str]:
    """Of everything that can change a bit of the answer."""
    found = {"python": platform.python_version()}
    for name in ("residual-learning", *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment(data: Named, where: dict[str, str], how: ComputeConfig) -> dict[str, Any]:
    """What a run remembers of its surroundings."""
    return {
        "data": {**where, "name": data.name, "fingerprint": data.fingerprint},
        "setting": asdict(how),
        "versions": versions(),
        "hardware": hardware_name(how),
    }


def peak_memory(device: str) -> int:
    """Bytes at most: of this process, or of the allocator on a GPU."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
