"""Prediction on a processor: ours against what a user would take instead, in turn, in one run.

    python -m benchmarks.prediction --rounds 6

Each side is a process of its own that waits for its turn, so that its memory is its own too. All
take preprocessed images (N, 3, 224, 224) and use as many threads. `onnxruntime` is ONNX Runtime
alone on torch's own export of torchvision's network, in a process without torch; `int8` is ONNX
Runtime alone on our network in eight bits (`residual export --int8`), calibrated on noise. `matrix
product` is torch's product of two matrices in as many multiply-adds: what the processor's
arithmetic allows.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sides import Measured, against, answer, compare, in_words, record, timed

SIDES = (
    *("ours", "torchvision", "timm", "torchvision compiled", "onnxruntime", "int8"),
    "matrix product",
)
COLUMNS = 2048  # of the matrices
INT8 = "int8.onnx"
Answer = Callable[[NDArray[np.float32]], Any]


def untrained(network: str) -> Any:
    """Our network with random weights, as a `Trained`."""
    import torch

    from residual.data.normalization import Preprocessing
    from residual.models.registry import build
    from residual.runs.load import Trained

    view = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (224, 224))
    net = build(f"{network}-v1.5").eval()
    return Trained(net, f"{network}-v1.5", None, view, None, None)


def ours(network: str, threads: int) -> Answer:
    """What `residual predict` answers with."""
    import torch

    from residual.export.engine import engine

    answer = engine(untrained(network), "auto", threads)
    return lambda x: answer(torch.from_numpy(x))


def library(side: str, network: str) -> Answer:
    """The network of another library, as it comes or compiled."""
    import torch

    if side == "timm":
        import timm

        net = timm.create_model(network).eval()
    else:
        import torchvision

        net = torchvision.models.get_model(network).eval()
    answering = torch.compile(net) if side == "torchvision compiled" else net

    def answer(x: NDArray[np.float32]) -> Any:
        with torch.inference_mode():
            return answering(torch.from_numpy(x)).softmax(dim=1)

    return answer


def product(network: str) -> Answer:
    """A matrix product with the multiply-adds of a network, for each image."""
    import torch

    from residual.models.complexity import cost
    from residual.models.registry import build

    _, multiply_adds = cost(build(f"{network}-v1.5"), 224)
    rows = round(multiply_adds / COLUMNS**2)
    left, right = torch.randn(rows, COLUMNS), torch.randn(COLUMNS, COLUMNS)
    products = torch.empty(rows, COLUMNS)  # image by image in the same place, as caches like it

    def answer(x: NDArray[np.float32]) -> None:
        for _ in x:
            torch.mm(left, right, out=products)

    return answer


def onnxruntime_alone(file: Path, threads: int) -> Answer:
    """ONNX Runtime as it comes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda x: session.run(None, {name: x})


def exported(network: str, file: Path) -> None:
    """Torch's own export of torchvision's network."""
    import torch
    import torchvision

    net = torchvision.models.get_model(network).eval()
    torch.onnx.export(
        net, (torch.randn(2, 3, 224, 224),), file, dynamo=False,
        input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip


def quantized(network: str, file: Path) -> None:
    """Our network in eight bits, calibrated on noise."""
    from residual.export.classifier import onnx_model
    from residual.export.quantization import quantize

    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((4, 3, 224, 224), np.float32) for _ in range(2))
    file.write_bytes(quantize(onnx_model(untrained(network), inside=False), noise))


def wait(side: str, options: argparse.Namespace) -> None:
    """In a process of its own: answer so many images in batches, at each turn."""
    network, threads = options.networks[0], options.threads
    if side in ("onnxruntime", "int8"):
        file = options.file if side == "onnxruntime" else options.file.with_name(INT8)
        answering = onnxruntime_alone(file, threads)
    else:
        import torch

        torch.set_num_threads(threads)
        match side:
            case "ours":
                answering = ours(network, threads)
            case "matrix product":
                answering = product(network)
            case _:
                answering = library(side, network)
    (batch,) = options.batches
    x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
    answering(x)  # what is needed to begin is not counted: neither time nor memory

    def turn() -> Measured:
        answering(x)
        steps = (answering(x) for _ in itertools.count())
        return timed(steps, max(1, options.images // batch), batch, wait=lambda: None)

    answer(turn)


def rows(network: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All sides in turn, batch size by batch size."""
    module = "benchmarks.prediction"
    with tempfile.TemporaryDirectory() as folder:
        passed = ["--networks", network, "--threads", str(options.threads)]
        passed += ["--images", str(options.images), "--file", str(Path(folder) / "theirs.onnx")]
        products = [sys.executable, "-m", module, "--wait", "export", *passed]
        products += ["--sides", *options.sides]
        subprocess.run(products, check=True, capture_output=True)
        for batch in options.batches:
            sides = {name: [*passed, "--batches", str(batch)] for name in options.sides}
            turns = compare(module, sides, options.rounds)
            medians = against(turns, "torchvision")
            by_side = {name: against(turns, name) for name in turns}
            yield {
                "network": network,
                "batch": batch,
                "sides": medians,
                **{
                    f"{side}_against": {name: by_side[name][side]["ratio"] for name in turns}
                    for side in ("ours", "int8")
                    if side in turns
                },
            }


def words(row: dict[str, Any]) -> Iterator[str]:
    """A comparison as a person reads it."""
    yield f"{row['network']}, batch {row['batch']}"
    yield from in_words(row["sides"], "torchvision")
    for side in ("ours", "int8"):
        others = (item for item in row.get(f"{side}_against", {}).items() if item[0] != side)
        if times := ", ".join(f"{ratio:.2f} times {name}" for name, ratio in others):
            yield f"  {side} is {times}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=["resnet50", "resnet152"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--images", type=int, default=32, help="of one measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.wait == "export":
        exported(options.networks[0], options.file)
        if "int8" in options.sides:
            quantized(options.networks[0], options.file.with_name(INT8))
        return
    if options.wait:
        wait(options.wait, options)
        return
    comparisons: list[dict[str, Any]] = []
    for network in options.networks:
        for row in rows(network, options):
            comparisons.append(row)
            if not options.json:
                print("\n".join(words(row)), flush=True)
    import torch

    from residual.storage import write_json

    torch.set_num_threads(options.threads)
    result = record(
        "prediction",
        "cpu",
        rows=comparisons,
        rounds=options.rounds,
    )
    if options.json:
        print(json.dumps(result))
    if options.keep:
        write_json(options.keep, result)


if __name__ == "__main__":
    main()
