"""The environment of a run (data, versions, hardware), and its comparison when a run is resumed."""

import platform
import resource
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from residual.data import arrays
from residual.data.folder import generated_split
from residual.data.packed import is_packed
from residual.device import ComputeConfig, hardware_name
from residual.runs import folder
from residual.storage import display_name, read_json_object, write_json

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
    stored = {**source, "name": data.name, "fingerprint": data.fingerprint}
    return {"data": stored, **machine(config)}


def machine(config: ComputeConfig) -> dict[str, Any]:
    """The configuration, versions and hardware."""
    hardware = hardware_name(config)
    return {"setting": asdict(config), "versions": versions(), "hardware": hardware}


def peak_memory(device: str) -> int:
    """Peak memory of this process, or of the allocator on a GPU, in bytes."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# Libraries that can change bits of a result: scikit-learn splits data, scipy draws the weights of
# mixup, and torchvision augments, pools regions and suppresses boxes. Of numpy, only arithmetic is
# used that has the same bits in every version.
DECISIVE = ("torch", "torchvision", "scikit-learn", "scipy", "pillow", "simplejpeg")


def differences(environment: dict[str, Any], config: ComputeConfig) -> list[str]:
    """Differences that make the result inexact, each as a sentence."""
    stored, current = environment["setting"], asdict(config)
    changes = [(name, stored[name], current[name]) for name in current if name in stored]
    # A run without a version of simplejpeg was made before that was used. Other libraries that it
    # does not list were not recorded, and count as equal.
    installed = versions()
    recorded = installed | {"simplejpeg": "not installed"} | environment["versions"]
    changes += [(name, recorded[name], installed[name]) for name in DECISIVE]
    sentences = [f"{name} was {old} and is {new}" for name, old, new in changes if old != new]
    if (machine := hardware_name(config)) != environment["hardware"] and not sentences:
        sentences.append(f"the machine was {environment['hardware']} and is {machine}")
    return sentences


def check_exact(run: Path, environment: dict[str, Any], config: ComputeConfig) -> None:
    """Raises ValueError if the result could differ from that of an uninterrupted run."""
    if sentences := differences(environment, config):
        raise ValueError(
            f"{run} cannot be resumed with identical results: {'; '.join(sentences)}; "
            f"residual resume {run} --inexact goes on all the same"
        )


def existing_data(run: Path, where: str) -> str:
    """The location of a run's data. Raises FileNotFoundError if nothing is there any more,
    and ValueError if the data was in memory."""
    if where == arrays.NAME:
        raise ValueError(f"{run} was trained on {where}: give them to resume or evaluate in Python")
    if Path(where).is_absolute() and not Path(where).exists():
        raise FileNotFoundError(
            f"{run} was trained on data in {display_name(where)}, which is not there any "
            "more; say where it lies now with --data"
        )
    return where


def check_split(run: Path, where: str) -> None:
    """Raises ValueError if the folder that a run was trained on would be split otherwise now."""
    if not (run / "split.json").is_file() or folder.is_detection(run) or is_packed(where):
        return
    stored = read_json_object(run / "environment.json")["data"]
    place = Path(where).expanduser().resolve()
    if str(place) == stored["where"] and (test := generated_split(place).get("test")):
        folder.check_division(run, "test", test)


def check_data(run: Path, environment: dict[str, Any], data: Named) -> None:
    """Raises ValueError if the run was trained on other data."""
    stored = environment["data"]
    # Older versions gave packed images with other pixels the fingerprint of their source. A run
    # that was trained on such a packed copy is resumed with it.
    former = getattr(data, "former", "") == stored["fingerprint"] and is_packed(stored["where"])
    if data.fingerprint != stored["fingerprint"] and not former:
        raise ValueError(
            f"{run} was trained on {stored['name']} ({stored['fingerprint'][:12]}), "
            f"and this is {data.name} ({data.fingerprint[:12]}): other data"
        )


def update_environment(
    run: Path, environment: dict[str, Any], source: dict[str, str], config: ComputeConfig
) -> None:
    """Store the current location of the data, machine and versions in a run."""
    updated = environment | {"data": environment["data"] | source, **machine(config)}
    if updated != environment:
        write_json(run / "environment.json", updated)


def copy_run(run: Path, out: Path) -> Path:
    """Copy a run, to resume the copy. Raises ValueError if the folder exists, or if a process
    writes to the run."""
    folder.refuse_held(run)
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(
            f"{out} exists already; choose a new folder for the copy of {run}"
        ) from None
    # The report belongs to the run at the time of the report.
    ignored = shutil.ignore_patterns("*.partial", "report", folder.LOCK)
    shutil.copytree(run, out, ignore=ignored, dirs_exist_ok=True)
    return out
