"""Training on CIFAR-size images, end to end: ours against the usual loop, in turn, in one run.

    python -m benchmarks.cifar_training --device cpu --rounds 5

Both sides train the same network with the same augmentation, batch, precision and schedule on the
same made-up images. Each measurement is a process of its own, so that its memory is its own too.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import usual_loop
from benchmarks.sides import Measured, Side, answer, record
from residual.data.datasets import Data, ImageTensors, require_tensors
from residual.data.normalization import per_pixel_mean
from residual.device import ComputeConfig, compute_config
from residual.models.registry import build
from residual.storage import write_json
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.tasks.classification.train import advance, begin, recipe_for
from residual.training.events import RunOptions

NETWORKS = ("resnet20", "resnet56")
IMAGES = 50_000
WARM_UP = 5  # steps of each measurement that are not counted
SIDES = ("ours", "usual")


def made_up() -> Data:
    """As many images as CIFAR-10 has, of its size; what they show does not matter to the speed."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=draw)
    images = ImageTensors(pixels, torch.randint(0, 10, (IMAGES,), generator=draw))
    return Data(
        "made up", "0" * 64, tuple("abcdefghij"), train=images, test=images.subset(torch.arange(10))
    )


def ours(recipe: ClassificationRecipe, config: ComputeConfig, data: Data) -> Iterator[Any]:
    """Steps of `residual train`, as they come."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        begin(run, recipe, data, {"where": "", "root": folder}, config)
        yield from advance(run, data, RunOptions())


def usual(recipe: ClassificationRecipe, config: ComputeConfig, data: Data) -> Iterator[Any]:
    """Steps of the usual loop."""
    torch.set_num_threads(config.threads)
    train = require_tensors(data.train)
    mean = per_pixel_mean(train).mean
    batches = usual_loop.loader(train.pixels, train.labels, mean, recipe)
    device, bf16 = torch.device(config.device), config.precision == "bf16"
    return usual_loop.train(build(recipe.network), batches, recipe, device, bf16)


def measure(side: str, network: str, config: ComputeConfig, steps: int) -> Measured:
    """Images per second of one side, after a few steps, and seconds to its first step."""
    data, train = made_up(), ours if side == "ours" else usual
    begun = time.perf_counter()
    taken = train(recipe_for(network, "cifar10"), config, data)
    next(taken)
    first = time.perf_counter() - begun
    for _ in itertools.islice(taken, WARM_UP - 1):
        pass
    _wait(config)
    begun = time.perf_counter()
    for _ in itertools.islice(taken, steps):
        pass
    _wait(config)
    speed = 128 * steps / (time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() if config.device.startswith("cuda") else 0
    return {"images_per_second": speed, "seconds_to_first_step": first, "peak_gpu_bytes": memory}


def _wait(config: ComputeConfig) -> None:
    if config.device.startswith("cuda"):
        torch.cuda.synchronize()


def in_a_process(side: str, network: str, options: list[str]) -> Measured:
    """One measurement, with the peak memory of its process tree."""
    with ExitStack() as stack:
        words = ["--networks", network, *options]
        return Side(stack, "benchmarks.cifar_training", side, words).turn()


def compare(network: str, rounds: int, options: list[str]) -> dict[str, Any]:
    """Both sides in turn, so many rounds, and the median of the ratios."""
    measured: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for n in range(rounds):
        for side in SIDES if n % 2 == 0 else reversed(SIDES):
            measured[side].append(in_a_process(side, network, options))
        speeds = [measured[side][-1]["images_per_second"] for side in SIDES]
        print(
            f"{network}, round {n + 1}: ours {speeds[0]:,.0f}, usual {speeds[1]:,.0f} images/s, "
            f"ratio {speeds[0] / speeds[1]:.2f}",
            file=sys.stderr,
            flush=True,
        )
    ratios = [
        a["images_per_second"] / b["images_per_second"]
        for a, b in zip(measured["ours"], measured["usual"], strict=True)
    ]
    return {
        "ratio": median(ratios),
        "ratios": ratios,
        **{
            side: {key: median(each[key] for each in measured[side]) for key in measured[side][0]}
            for side in SIDES
        },
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="", help="float32 on a processor, bf16 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="counted steps of a measurement")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_words(result: dict[str, Any]) -> Iterator[str]:
    """The comparison as a person reads it."""
    for name, each in result["networks"].items():
        yield f"{name}: {each['ratio']:.2f} times the usual loop, on {result['hardware']}"
        for side in SIDES:
            one = each[side]
            yield (
                f"  {side:>5}: {one['images_per_second']:,.0f} images/s, "
                f"first step after {one['seconds_to_first_step']:.1f} s, "
                f"peak memory {one['peak_memory_bytes'] / 2**30:.2f} GiB"
            )


def main() -> None:
    options = arguments()
    config = compute_config(options.device, options.threads)
    on_gpu = config.device.startswith("cuda")
    config = replace(config, precision=options.precision or ("bf16" if on_gpu else "float32"))
    steps = options.steps or (500 if on_gpu else 30)
    if options.wait:
        answer(lambda: measure(options.wait, options.networks[0], config, steps))
        return
    passed_on = ["--device", config.device, "--threads", str(config.threads)]
    passed_on += ["--precision", config.precision, "--steps", str(steps)]
    config.apply()
    result = record(
        "cifar_training",
        config.device,
        networks={name: compare(name, options.rounds, passed_on) for name in options.networks},
        rounds=options.rounds,
        steps=steps,
        batch=128,
        precision=config.precision,
    )
    if options.keep:
        write_json(options.keep, result)
    print(json.dumps(result) if options.json else "\n".join(in_words(result)))


if __name__ == "__main__":
    main()
