"""Reading photographs to the normalised batch: ours against ImageFolder, in turn, in one run.

    python -m benchmarks.imagenet_loading FOLDER --rounds 6

FOLDER has train/ with one folder for each class. Without workers a side is one thread of one
process, and its images per second are those of one core. Packed data is measured where the extra
`cloud` is installed.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import usual_pictures
from benchmarks.sides import Measured, against, answer, compare, in_words, record, timed
from residual.data.augment import LEFT, SCALE, TOP, ScaleCrop
from residual.data.datasets import ImageFiles
from residual.data.decode import resize, scaled_size
from residual.data.loader import LoaderOptions
from residual.data.rng import randint
from residual.data.sources import load
from residual.preparation.pack import PackOptions, pack
from residual.storage import DEFAULT_ROOT, write_json
from residual.tasks.classification import loader
from residual.tasks.classification.train import recipe_for

BATCH = 64
DRAWS = 1_000
WARM_UP = 6
SIDE = "ImageFolder"


def ours(folder: str, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The paper's augmentation, to normalised batches."""
    data = load(folder, DEFAULT_ROOT, as_files=True)
    recipe = recipe_for("resnet50", data.name, "imagenet")
    recipe = replace(recipe, batch=BATCH, norm_group=BATCH, mean="imagenet")
    place = LoaderOptions(torch.device("cpu"), workers)
    return loader.batches(recipe, data, loader.preprocessing(recipe, data), place)


def measure(batches: Iterator[tuple[Tensor, Tensor]], workers: int, steps: int) -> Measured:
    """Images per second, after as many batches as the workers may have ready, and those in which
    the memory of a process grows."""
    for _ in itertools.islice(batches, WARM_UP + 2 * workers):
        pass
    return timed(batches, steps, BATCH, lambda: None)


def apart(photographs: ImageFiles, cut: ScaleCrop, draws: int) -> float:
    """Our crops against those of the whole picture resized: how far a pixel is off on average, in
    grey levels."""
    total = 0.0
    for n in range(draws):
        i = n % len(photographs)
        image, key = photographs.image(i), (0, n // len(photographs), i)
        shorter = 256 + int(randint(480 - 256 + 1, *key, SCALE))
        width, height = scaled_size(image.size, shorter)
        left, top = (
            int(randint(long - 224 + 1, *key, draw))
            for long, draw in ((width, LEFT), (height, TOP))
        )
        resized = np.asarray(resize(image, (height, width)), dtype=np.int16)
        plain = resized[top : top + 224, left : left + 224]
        total += float(np.abs(cut(image, i, key[1])[0][0] - plain).mean())
    return total / draws


def places(folder: Path, scratch: Path) -> Iterator[tuple[str, str, int, int]]:
    """Where ours reads from: a name, a place, its bytes, and how many of the pictures (of all sets)
    can be decoded in part."""
    files = sum(path.stat().st_size for path in (folder / "train").rglob("*") if path.is_file())
    yield "files", str(folder), files, 0
    forms = {
        "packed jpeg": PackOptions(),
        "packed jpeg 90": PackOptions(quality=90),
        "packed raw": PackOptions(form="raw"),
    }
    for name, config in forms.items():
        to = scratch / name.replace(" ", "-")
        try:
            in_part = pack(folder, str(to), config).in_part
        except ValueError as error:
            print(f"{name}: not measured: {error}")
            continue
        total = sum(path.stat().st_size for path in (to / "train").rglob("*") if path.is_file())
        yield name, str(to), total, in_part


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0, help="processes of each side")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6, help="counted batches of a measurement")
    parser.add_argument("--draws", type=int, default=DRAWS, help="crops that are compared")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """All sides in turn, and what their data takes on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        there = list(places(options.folder, Path(scratch)))
        passed = ["--workers", str(options.workers), "--steps", str(options.steps)]
        sides = {SIDE: [str(options.folder), *passed]}
        sides |= {name: [place, *passed] for name, place, *_ in there}
        turns = compare("benchmarks.imagenet_loading", sides, options.rounds)
        return {
            "reading": against(turns, SIDE),
            "bytes_on_disk": {name: size for name, _, size, _ in there},
            "read_in_part": {name: in_part for name, _, _, in_part in there},
        }


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if options.wait:
        where, workers = options.folder, options.workers
        batches = (
            usual_pictures.batches(where / "train", BATCH, workers)
            if options.wait == SIDE
            else ours(str(where), workers)
        )
        answer(lambda: measure(batches, workers, options.steps))
        return
    photographs = load(str(options.folder), DEFAULT_ROOT, as_files=True).train
    assert isinstance(photographs, ImageFiles)
    result = record(
        "imagenet_loading",
        "cpu",
        **compared(options),
        grey_levels_apart=apart(photographs, ScaleCrop(224, (256, 480), 0), options.draws),
        pictures=len(photographs),
        rounds=options.rounds,
        workers=options.workers,
        batch=BATCH,
    )
    if options.keep:
        write_json(options.keep, result)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{len(photographs):,} photographs, {options.workers} workers, {result['hardware']}")
    print("\n".join(in_words(result["reading"], SIDE)))
    print("\n".join(f"{k}: {v / 1e6:,.1f} MB on disk" for k, v in result["bytes_on_disk"].items()))
    print(
        f"{options.draws:,} crops: {result['grey_levels_apart']:.2f} grey levels apart on average"
    )


if __name__ == "__main__":
    main()
