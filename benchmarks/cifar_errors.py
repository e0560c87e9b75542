"""The usual loop's errors, to be laid beside ours: the same network, schedule and augmentation.

    python -m benchmarks.cifar_errors FOLDER --steps 800 --seeds 3

Ours come from `residual reproduce table6 --data FOLDER --depths 20 --steps 800 --seeds 3`.

    python -m benchmarks.cifar_errors cifar10 --steps 800 --seeds 3 --precisions

trains ours instead, in float32 and in bf16 in turn; the same command continues after an
interruption.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import usual_loop
from benchmarks.sides import record
from residual.data.datasets import Data, require_tensors
from residual.data.normalization import per_pixel_mean
from residual.data.sources import load
from residual.models.registry import build
from residual.reproduction.experiments import slug
from residual.storage import DEFAULT_ROOT, FORMAT, read_json, write_json
from residual.tasks.classification.recipe import ClassificationRecipe, with_steps
from residual.tasks.classification.train import recipe_for
from residual.training.recipe import to_json

PRECISIONS = ("float32", "bf16")


def errors(recipe: ClassificationRecipe, data: Data, device: torch.device) -> dict[str, Any]:
    """Train by the usual loop, then open the test set once. The content of a result file."""
    torch.manual_seed(recipe.seed)
    net, train = build(recipe.network, len(data.classes)), require_tensors(data.train)
    mean = per_pixel_mean(train).mean
    batches = usual_loop.loader(train.pixels, train.labels, mean, recipe)
    begun, every = time.perf_counter(), max(1, recipe.steps // 16)
    for step, loss in enumerate(usual_loop.train(net, batches, recipe, device), start=1):
        if step % every == 0:
            speed = recipe.batch * step / (time.perf_counter() - begun)
            print(f"{step} of {recipe.steps}, loss {loss:.3f}, {speed:,.0f} images/s",
                  file=sys.stderr, flush=True)  # fmt: skip
    seconds = time.perf_counter() - begun
    test = require_tensors(data.split("test"))
    wrong = usual_loop.wrong(net, test.pixels, test.labels, mean, device)
    return record(
        "cifar_errors",
        str(device),
        recipe=to_json(recipe),
        data={"name": data.name, "fingerprint": data.fingerprint, "split": "test"},
        seen=len(test),
        wrong_top1=wrong,
        usual_error_top1=100 * wrong / len(test),
        images_per_second=round(recipe.batch * recipe.steps / seconds, 1),
        seconds=round(seconds, 1),
    )


def trained(precision: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The result of `residual train`, in a process of its own; an interrupted run is resumed."""
    name = f"{slug(options.data)}-{options.network}-{options.steps}steps-seed{seed}-{precision}"
    run = options.runs / name
    words = ["train", options.network, "--data", options.data, "--root", str(options.root)]
    words += ["--steps", str(options.steps), "--seed", str(seed), "--precision", precision]
    words += ["--device", options.device, "--threads", str(options.threads), "--out", str(run)]
    if (run / "recipe.json").exists():
        words = ["resume", str(run)]
    if not (run / "result.json").exists():
        command = [sys.executable, "-m", "residual", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = read_json(run / "result.json")
    return result


def compare_precisions(options: argparse.Namespace) -> Path:
    """Train with each precision in turn -> the file of errors and speeds. Of the two precisions
    each comes first for every other seed."""
    results: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    for seed in range(options.seeds):
        for precision in PRECISIONS if seed % 2 == 0 else reversed(PRECISIONS):
            results[precision].append(trained(precision, seed, options))
    first, *_ = results["float32"]
    keys = ("error_top1", "images_per_second", "seconds")
    sides = {
        name: {key: [result[key] for result in some] for key in keys}
        for name, some in results.items()
    }
    speeds = (sides[name]["images_per_second"] for name in PRECISIONS)
    ratios = [bf16 / float32 for float32, bf16 in zip(*speeds, strict=True)]
    shared = {key: first[key] for key in ("recipe", "data", "seen", "hardware", "versions")}
    result = {"format": FORMAT, "benchmark": "cifar_errors", "precisions": sides}
    result |= {"ratio": median(ratios), "ratios": ratios} | shared
    name = f"precisions-{slug(first['data']['name'])}-{options.network}-{options.steps}steps.json"
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(options.results / name, result | {"finished": finished})
    return Path(options.results / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precisions", action="store_true", help="ours in float32 and in bf16")
    parser.add_argument("--runs", type=Path, default=Path("runs/precisions"))
    parser.add_argument("--results", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.precisions:
        print(compare_precisions(options))
        return
    torch.set_num_threads(options.threads)
    data = load(options.data, options.root)
    for seed in range(options.seeds):
        recipe = with_steps(recipe_for(options.network, data.name), options.steps)
        recipe = replace(recipe, seed=seed)
        name = f"usual-{slug(data.name)}-{recipe.network}-{recipe.steps}steps-seed{seed}.json"
        if not (options.results / name).exists():
            result = errors(recipe, data, torch.device(options.device))
            write_json(options.results / name, result)
        print(options.results / name)


if __name__ == "__main__":
    main()
