"""What training and fine-tuning cost as they grow: time and memory against batch, depth, image size
and processes, as JSON and as a figure.

    python -m benchmarks.growth --keep results/benchmarks/growth-cpu.json --figure results/figures

Each point is measured in processes of its own, and only one thing differs from the first point.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.sides import record
from residual.analysis.curves import save_figure, style_axes
from residual.device import compute_config
from residual.distributed import join, leave
from residual.models.registry import build
from residual.storage import write_json
from residual.tasks.classification import loop
from residual.tasks.classification.train import recipe_for
from residual.training.loop import StepOptions

KINDS = {"training": "imagenet", "fine-tuning": "finetune"}  # and whose recipe it is
AXES = {"batch": "images of a step", "depth": "layers", "size": "pixels on a side",
        "processes": "processes"}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What is measured."""

    kind: str = "training"
    batch: int = 8
    depth: int = 50
    size: int = 96
    processes: int = 1


def measured(point: Point, device: str, threads: int, steps: int) -> dict[str, float]:
    """In processes of their own: the median seconds of a step after the first, and the peak memory
    of all processes together."""
    world = join()
    config = compute_config(device, threads)
    config = replace(config, precision="bf16" if config.device.startswith("cuda") else "float32")
    config.apply()
    share = point.batch // point.processes
    recipe = replace(
        recipe_for(f"resnet{point.depth}", "", KINDS[point.kind]),
        batch=point.batch, norm_group=share, steps=steps + 1, warmup=(0, 0.01),
        drops=(), schedule="drops", patience=0, split="full",
    )  # fmt: skip
    torch.manual_seed(0)
    net = config.prepare(build(recipe.network))
    images = torch.rand(share, 3, point.size, point.size, device=config.device)
    labels = torch.randint(0, 1000, (share,), device=config.device)
    batches = itertools.repeat((images.contiguous(memory_format=config.memory_format), labels))
    seconds, begun = [], time.perf_counter()
    way = StepOptions(config.autocast, world=world)
    for step in loop.train(loop.start(net, recipe), batches, recipe, way):
        float(step.loss)  # waits for the device
        seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB on Linux
    if config.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    memory = int(world.all_reduce(torch.tensor(memory)))
    leave()
    return {"seconds_per_step": median(seconds[1:]), "peak_memory_bytes": memory}


def in_processes(point: Point, options: argparse.Namespace) -> dict[str, float]:
    """Measure a point."""
    command = [sys.executable, "-m"]
    if point.processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(point.processes), "-m"]
    command += ["benchmarks.growth", "--device", options.device, "--steps", str(options.steps)]
    command += ["--threads", str(max(1, options.threads // point.processes))]
    command += ["--point", json.dumps(asdict(point))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{point} ended with status {done.returncode}: {done.stderr[-500:]}")
    measurement: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measurement


def points(first: Point, values: dict[str, list[int]]) -> Iterator[tuple[str, Point]]:
    """Along each axis, for each kind of training: (axis, point)."""
    for kind, axis in itertools.product(KINDS, AXES):
        for value in values[axis]:
            yield axis, replace(first, kind=kind, **{axis: value})


def figure(rows: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """Time above, memory below, against each axis."""
    drawn = Figure(figsize=(10, 4.6), layout="constrained")
    panels = drawn.subplots(2, len(AXES), sharex="col", squeeze=False)
    for column, (axis, title) in enumerate(AXES.items()):
        for row, (key, unit, scale) in enumerate(
            (("seconds_per_step", "s for a step", 1), ("peak_memory_bytes", "GiB", 2**30))
        ):
            axes = panels[row][column]
            for kind, colour in zip(KINDS, ("#c1272d", "#1b87b8"), strict=True):
                points = [each for each in rows if (each["axis"], each["kind"]) == (axis, kind)]
                x, y = [each[axis] for each in points], [each[key] / scale for each in points]
                axes.plot(x, y, color=colour, marker="o", markersize=4, label=kind)
            style_axes(axes)
            axes.set_ylim(0, 1.1 * axes.dataLim.y1)
            axes.set_xticks(sorted({each[axis] for each in rows if each["axis"] == axis}))
            if not column:
                axes.set_ylabel(unit)
            if row:
                axes.set_xlabel(title)
    panels[0][0].legend(frameon=False, fontsize=9)
    return save_figure(drawn, stem)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    first = Point()
    parser.add_argument("--batch", type=int, nargs="*", default=[first.batch, 16, 32])
    parser.add_argument("--depth", type=int, nargs="*", default=[18, first.depth, 101])
    parser.add_argument("--size", type=int, nargs="*", default=[64, first.size, 128])
    parser.add_argument("--processes", type=int, nargs="*", default=[first.processes, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of each point")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--figure", type=Path, help="a folder for the figure")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.point:
        measurement = measured(
            Point(**options.point), options.device, options.threads, options.steps
        )
        print(json.dumps(measurement))
        return
    config = compute_config(options.device, options.threads)
    options.device, options.threads = config.device, config.threads
    known: dict[Point, dict[str, float]] = {}
    rows = []
    for axis, point in points(Point(), {axis: getattr(options, axis) for axis in AXES}):
        if point not in known:
            known[point] = in_processes(point, options)
            print(point, known[point], file=sys.stderr, flush=True)
        rows.append({"axis": axis} | asdict(point) | known[point])
    torch.set_num_threads(config.threads)
    result = record("growth", config.device, growth=rows, steps=options.steps)
    if options.keep:
        write_json(options.keep, result)
    if options.figure:
        options.figure.mkdir(parents=True, exist_ok=True)
        name = "growth-gpu" if config.device.startswith("cuda") else "growth-cpu"
        print("\n".join(map(str, figure(rows, options.figure / name))))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
