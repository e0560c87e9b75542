"""A run taken up again: the same machine and versions, or a sentence that names the difference."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from residual.data.packed import is_packed
from residual.device import ComputeConfig, hardware_name
from residual.runs import folder
from residual.runs.results import Named, versions
from residual.storage import display_name, read_json_object, write_json

# The libraries that make the bits: scikit-learn divides what is held out, scipy draws the shares of
# mixup, and torchvision augments, pools regions and suppresses boxes. Of numpy, only arithmetic is
# used that has the same bits everywhere.
DECISIVE = ("torch", "torchvision", "scikit-learn", "scipy", "pillow", "simplejpeg")


def read_environment(run: Path) -> dict[str, Any]:
    """What a run remembers of its surroundings. Raises NoRun and ValueError."""
    if not (run / "recipe.json").exists():
        folder.check_run(run)
    return read_json_object(run / "environment.json")


def differences(known: dict[str, Any], how: ComputeConfig) -> list[str]:
    """Each thing that makes going on here inexact, in words."""
    before, now = known["setting"], asdict(how)
    found = [
        f"{name} was {before[name]} and is {now[name]}"
        for name in now
        if name in before and before[name] != now[name]
    ]
    # A run without a version of simplejpeg was made before that was used; other libraries that it
    # does not list were not recorded, and count as equal.
    libraries = versions()
    had = libraries | {"simplejpeg": "not installed"} | known["versions"]
    found += [
        f"{name} was {had[name]} and is {libraries[name]}"
        for name in DECISIVE
        if had[name] != libraries[name]
    ]
    if (here := hardware_name(how)) != known["hardware"] and not found:
        found.append(f"the machine was {known['hardware']} and is {here}")
    return found


def exact(run: Path, known: dict[str, Any], how: ComputeConfig) -> None:
    """Raises ValueError where the run cannot go on here exactly as it would have gone on."""
    if found := differences(known, how):
        raise ValueError(
            f"{run} cannot go on exactly: {'; '.join(found)}; "
            f"residual resume {run} --inexact goes on all the same"
        )


def data_there(run: Path, where: str) -> str:
    """Where a run's data lies. Raises FileNotFoundError where it is not there any more."""
    if Path(where).is_absolute() and not Path(where).exists():
        raise FileNotFoundError(
            f"{run} was trained on data in {display_name(where)}, which is not there any "
            "more; say where it lies now with --data"
        )
    return where


def same_data(run: Path, known: dict[str, Any], data: Named) -> None:
    """Raises ValueError where this is not what the run was trained on."""
    before = known["data"]
    # Older versions gave packed pictures with other pixels the fingerprint of their source. A run
    # that was trained on such a packed copy is continued with it.
    former = getattr(data, "former", "") == before["fingerprint"] and is_packed(before["where"])
    if data.fingerprint != before["fingerprint"] and not former:
        raise ValueError(
            f"{run} was trained on {before['name']} ({before['fingerprint'][:12]}), "
            f"and this is {data.name} ({data.fingerprint[:12]}): other data"
        )


def move(run: Path, known: dict[str, Any], where: dict[str, str], how: ComputeConfig) -> None:
    """Write down where the data lies now, and how the rest is computed."""
    now = known | {
        "data": known["data"] | where,
        "setting": asdict(how),
        "versions": versions(),
        "hardware": hardware_name(how),
    }
    if now != known:
        write_json(run / "environment.json", now)


def copy_run(run: Path, out: Path) -> Path:
    """A copy of a run, to go on in. Raises ValueError where the folder holds something, or where a
    process writes to the run."""
    folder.refuse_held(run)
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(
            f"{out} exists already; choose a new folder for the copy of {run}"
        ) from None
    # Its report is of what it was when that was asked for.
    left_out = shutil.ignore_patterns("*.partial", "report", folder.LOCK)
    shutil.copytree(run, out, ignore=left_out, dirs_exist_ok=True)
    return out
