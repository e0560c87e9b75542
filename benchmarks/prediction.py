"""Prediction on a processor: ours against torchvision and timm, in turn, in one run.

python -m benchmarks.prediction --rounds 5
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor

from residual.data.batches import Preprocessing
from residual.deployment.engine import engine, session_of
from residual.files import FORMAT, write_json
from residual.nets.networks import build
from residual.runs.loading import Trained
from residual.runs.results import versions
from residual.world import hardware

Side = Callable[[Tensor], Any]


def bare_onnxruntime(net: torch.nn.Module, threads: int) -> Side:
    """ONNX Runtime on torch's own export."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "theirs.onnx"
        torch.onnx.export(
            net, (torch.randn(2, 3, 224, 224),), file, dynamo=False,
            input_names=["x"], dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
        session = session_of(file.read_bytes(), threads)
    return lambda x: session.run(None, {"x": x.numpy()})


def sides(depth: int, threads: int, compiled: bool) -> dict[str, Side]:
    """Each side by name; the first is ours."""
    torch.manual_seed(0)
    name = f"resnet{depth}"
    before = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (224, 224), 256)
    own = Trained(build(f"{name}-v1.5").eval(), f"{name}-v1.5", None, before, None, None)
    theirs = torchvision.models.get_model(name).eval()
    found: dict[str, Side] = {
        "ours": engine(own, "auto", threads),
        "torchvision": theirs,
        "timm": timm.create_model(name).eval(),
        "bare onnxruntime": bare_onnxruntime(theirs, threads),
    }
    if compiled:
        found["torchvision compiled"] = torch.compile(theirs)
    return found


def measured(side: Side, x: Tensor, repeats: int) -> float:
    """Images per second, after a first answer that is not counted."""
    with torch.inference_mode():
        side(x)
        begun = time.perf_counter()
        for _ in range(repeats):
            side(x)
    return len(x) * repeats / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="*", default=(50, 152))
    parser.add_argument("--batches", type=int, nargs="*", default=(1, 16))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="compile torchvision's, too")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for depth in options.depths:
        every = sides(depth, options.threads, options.compiled)
        for batch in options.batches:
            x = torch.randn(batch, 3, 224, 224)
            speeds: dict[str, list[float]] = {name: [] for name in every}
            for _ in range(options.rounds):
                for name, side in every.items():
                    speeds[name].append(measured(side, x, max(1, 8 // batch)))
            ratios = {
                name: median(a / b for a, b in zip(speeds["ours"], each, strict=True))
                for name, each in speeds.items()
            }
            rows.append(
                {
                    "network": f"resnet{depth}",
                    "batch": batch,
                    "images_per_second": {name: median(each) for name, each in speeds.items()},
                    "ours_against": ratios,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    if options.keep:
        result = {
            "format": FORMAT,
            "benchmark": "prediction",
            "rows": rows,
            "rounds": options.rounds,
            "hardware": hardware("cpu"),
            "versions": versions(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(options.keep, result)


if __name__ == "__main__":
    main()
