"""A server under load: its throughput beside ONNX Runtime alone, its latency, its memory.

    python -m benchmarks.serving resnet50 FOLDER

NETWORK is a run, a file of weights, or a name: then the weights are random. Clients keep their
connections and send one picture of the folder after another. `onnxruntime` answers preprocessed
images in batches, in a process of its own: nothing is decoded, nothing is sent. Both sides have
turns in one run; the clients share the processor with the server.
"""

import argparse
import http.client
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import psutil

from benchmarks.sides import Measured, Side, answer, environment_of, record, timed, tree_memory

BATCH = 16


def export(network: str, folder: Path) -> Path:
    """The model as a file for ONNX Runtime, and as one for the server -> the latter."""
    import torch

    from residual.data.normalization import Preprocessing
    from residual.export.classifier import onnx_model
    from residual.models.registry import build, model_spec
    from residual.runs.load import Trained
    from residual.tasks.classification.load import load, save

    served = Path(network)
    if served.exists():
        trained = load(served)
    else:
        torch.manual_seed(0)
        side = model_spec(network).input_size
        shorter = 256 if side == 224 else None
        view = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (side, side), shorter)
        trained = Trained(build(network).eval(), network, None, view, None, None)
        served = folder / f"{network}.safetensors"
        save(trained, served, {})
    (folder / "alone.onnx").write_bytes(onnx_model(trained, inside=False))
    return served


def wait(options: argparse.Namespace) -> None:
    """In a process of its own: ONNX Runtime alone, for some seconds at each turn."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    path, providers = options.file, ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, settings, providers=providers)
    (form,) = session.get_inputs()
    sides = [side if isinstance(side, int) else options.side for side in form.shape[2:]]
    x = np.random.default_rng(0).standard_normal((BATCH, 3, *sides), np.float32)

    def turn() -> Measured:
        begun = time.perf_counter()
        session.run(None, {form.name: x})
        count = max(2, round(options.seconds / 2 / (time.perf_counter() - begun)))
        steps = (session.run(None, {form.name: x}) for _ in itertools.count())
        return timed(steps, count, BATCH, wait=lambda: None)

    turn()
    answer(turn)


@contextmanager
def serving(path: Path, threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """A server on a free port -> the port, and the process."""
    words = ["serve", str(path), "--port", "0", "--threads", str(threads)]
    command = [sys.executable, "-m", "residual", *words]
    environment = environment_of("ours")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r":(\d+) ", line)
            if found is None:
                raise SystemExit("the server did not start")
            yield int(found.group(1)), psutil.Process(process.pid)
        finally:
            process.terminate()


def load_server(port: int, pictures: Sequence[bytes], seconds: float, clients: int) -> Any:
    """Let clients send pictures for some seconds -> statuses with their counts, and the latencies
    of answers in seconds. A request that is not answered has the status 0."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for n in itertools.count(number):
            if (begun := time.perf_counter()) >= until:
                return
            try:
                connection.request("POST", "/predict", pictures[n % len(pictures)])
                response = connection.getresponse()
                answer, status = response.read(), response.status
                assert status != 200 or "labels" in json.loads(answer)[0]
            except (OSError, http.client.HTTPException, AssertionError):
                status = 0
                connection.close()  # the next request opens it again
            statuses[status] += 1
            if status == 200:
                latencies.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, latencies, time.perf_counter() - begun


def turn_of_server(port: int, process: psutil.Process, options: argparse.Namespace) -> Any:
    """One measurement of the server, in the terms of `sides.Measured`."""
    pictures = [path.read_bytes() for path in sorted(options.folder.iterdir())]
    before, used = tree_memory(process), sum(process.cpu_times()[:2])
    statuses, latencies, seconds = load_server(port, pictures, options.seconds, options.clients)
    used = sum(process.cpu_times()[:2]) - used
    cuts = quantiles(latencies, n=100)
    return {
        "images_per_second": statuses[200] / seconds,
        "images_per_cpu_second": statuses[200] / used,
        "peak_memory_bytes": tree_memory(process),
        "memory_before_bytes": before,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "answers": statuses[200],
        "busy": statuses[503],
        "failed": sum(statuses.values()) - statuses[200] - statuses[503],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turn."""
    turns: dict[str, list[Any]] = {"served": [], "onnxruntime": []}
    with tempfile.TemporaryDirectory() as name:
        served, file = export(options.network, Path(name)), Path(name) / "alone.onnx"
        passed = ["--file", str(file), "--seconds", str(options.seconds)]
        passed += ["--threads", str(options.threads), options.network, str(options.folder)]
        with serving(served, options.threads) as (port, process):
            turn_of_server(port, process, options)  # what is needed to begin is not counted
            for n in range(options.rounds):
                turns["served"].append(turn_of_server(port, process, options))
                with ExitStack() as stack:
                    side = Side(stack, "benchmarks.serving", "onnxruntime", passed)
                    turns["onnxruntime"].append(side.turn())
                last = {name: some[-1]["images_per_second"] for name, some in turns.items()}
                speeds = ", ".join(f"{name} {speed:,.1f}" for name, speed in last.items())
                print(f"round {n + 1}: {speeds} images/s", file=sys.stderr, flush=True)
    medians = {
        name: {key: median(turn[key] for turn in some) for key in some[0]}
        for name, some in turns.items()
    }
    pairs = zip(turns["served"], turns["onnxruntime"], strict=True)
    ratios = [one["images_per_second"] / two["images_per_second"] for one, two in pairs]
    memory = [turn["peak_memory_bytes"] for turn in turns["served"]]
    return {
        "network": options.network,
        "clients": options.clients,
        "serving": medians,
        "ratio": median(ratios),
        "ratios": ratios,
        "memory_of_rounds": memory,
    }


def words(result: dict[str, Any]) -> Iterator[str]:
    """The measurement as a person reads it."""
    served, alone = (result["serving"][name] for name in ("served", "onnxruntime"))
    yield (
        f"{result['network']}, {result['clients']} clients: {served['images_per_second']:,.1f} "
        f"images/s, {result['ratio']:.2f} times ONNX Runtime alone "
        f"({alone['images_per_second']:,.1f} images/s)"
    )
    yield (
        f"latency p50 {served['p50_ms']:,.0f} ms, p99 {served['p99_ms']:,.0f} ms; "
        f"{served['busy']:,.0f} refused by a full queue, {served['failed']:,.0f} failed or lost"
    )
    sizes = ", ".join(f"{size / 2**20:,.0f}" for size in result["memory_of_rounds"])
    yield f"memory after each round, MiB: {sizes}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", help="a run, a file of weights, or a name")
    parser.add_argument("folder", type=Path, help="pictures to send")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of one measurement")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=224, help="of inputs of any size")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.wait:
        wait(options)
        return
    measured = measure(options)
    import torch

    from residual.storage import write_json

    torch.set_num_threads(options.threads)
    result = record("serving", "cpu", **measured)
    print("\n".join(words(result)))
    if options.keep:
        write_json(options.keep, result)


if __name__ == "__main__":
    main()
