"""Reading photographs to the normalised batch: ours against ImageFolder, in turn, in one run.

    python -m benchmarks.imagenet_loading FOLDER --rounds 5

FOLDER has train/ with one folder for each class. Each side reads in one process, without workers,
so that images per second are images per second of one core.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import usual_pictures
from residual.data.feeding import Place
from residual.data.images import Data
from residual.data.sources import DEFAULT_ROOT, load
from residual.files import FORMAT, write_json
from residual.runs import supply
from residual.runs.results import versions
from residual.runs.training import recipe_for
from residual.world import hardware

BATCH = 64


def ours(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """The paper's augmentation, to normalised batches."""
    recipe = recipe_for("resnet50", data.name, "imagenet")
    recipe = replace(recipe, batch=BATCH, norm_group=BATCH, mean="imagenet")
    place = Place(torch.device("cpu"))
    return supply.batches(recipe, data, supply.preprocessing(recipe, data), place)


def speed(batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> float:
    """Images per second, after a first batch that is not counted."""
    next(batches)
    begun = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    return BATCH * steps / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="a file for the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load(str(options.folder), DEFAULT_ROOT, whole=True)
    sides = {
        "ours": ours(data),
        "usual": usual_pictures.batches(options.folder / "train", BATCH, 0),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(options.rounds):
        for name in sides if n % 2 == 0 else reversed(sides):
            found[name].append(speed(sides[name], options.steps))
    ratios = [a / b for a, b in zip(found["ours"], found["usual"], strict=True)]
    result: dict[str, Any] = {
        "format": FORMAT,
        "benchmark": "imagenet_loading",
        "images_per_second_per_core": {name: median(each) for name, each in found.items()},
        "ratio": median(ratios),
        "ratios": ratios,
        "pictures": len(data.train),
        "fingerprint": data.fingerprint,
        "rounds": options.rounds,
        "hardware": hardware("cpu"),
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if options.keep:
        write_json(options.keep, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
