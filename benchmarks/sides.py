"""What is measured side by side: each side is a process of its own that waits for its turn."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import Any

import psutil

Measured = dict[str, float]
SPINNING = {"GOMP_SPINCOUNT": "300000"}  # what GNU OpenMP takes where nothing is set


def environment_of(side: str) -> dict[str, str]:
    """The environment of a side's process: less spinning, set by `residual`, is for ours."""
    return os.environ | ({} if side.startswith("ours") else SPINNING)


def tree_memory(process: psutil.Process) -> int:
    """Bytes of a process and its children; what they share is counted once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return total


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and its children, so far."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += sum(each.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


class Side:
    """A process that waits for its turn."""

    def __init__(
        self,
        stack: ExitStack,
        module: str,
        name: str,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,  # besides that of this process
    ) -> None:
        command = [sys.executable, "-m", module, "--wait", name, *options]
        pipe, variables = subprocess.PIPE, environment_of(name) | dict(environment or {})
        self.process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                text=True,
                env=variables,
            )
        )
        stack.callback(self.process.kill)
        self.name, self.peak = name, 0
        self.next_line()

    def next_line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return line

    def begin(self) -> None:
        """Let it measure; nobody waits for it."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def turn(self) -> Measured:
        """What it measures now, with the peak memory of its process tree until now."""
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,))
        watcher.start()
        try:
            self.begin()
            result: Measured = json.loads(self.next_line())
        finally:
            over.set()
            watcher.join()
        return result | {"peak_memory_bytes": result.pop("peak_gpu_bytes", 0) or self.peak}

    def _watch(self, over: threading.Event) -> None:
        tree = psutil.Process(self.process.pid)
        while True:
            if psutil.pid_exists(self.process.pid):
                self.peak = max(self.peak, tree_memory(tree))
            if over.wait(0.25):
                return


def answer(measure: Callable[[], Measured]) -> None:
    """In a process of a side's own: measure at each turn."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def timed(steps: Iterator[Any], counted: int, images: int, wait: Callable[[], None]) -> Measured:
    """Images per second, and per second of processor time, of so many steps."""
    wait()
    process = psutil.Process()
    begun, used = time.perf_counter(), cpu_seconds(process)
    for _ in itertools.islice(steps, counted):
        pass
    wait()
    seconds, used = time.perf_counter() - begun, cpu_seconds(process) - used
    return {
        "images_per_second": counted * images / seconds,
        "images_per_cpu_second": counted * images / used,
    }


def compare(
    module: str, sides: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, list[Measured]]:
    """All sides in turn, so many rounds: for each its options, for `python -m module --wait NAME`.

    Each round has processes of its own, of any two each started first in every other round. For the
    same network was slower in the process that was started first, by up to a fifth.
    """
    turns: dict[str, list[Measured]] = {name: [] for name in sides}
    for n in range(rounds):
        order, by = list(sides), n // 2 % len(sides)
        order = order[by:] + order[:by]
        if n % 2:
            order.reverse()
        with ExitStack() as stack:
            started = [Side(stack, module, name, sides[name]) for name in order]
            for side in started:
                turns[side.name].append(side.turn())
        speeds = ", ".join(f"{k} {v[-1]['images_per_second']:,.1f}" for k, v in turns.items())
        print(f"round {n + 1}: {speeds} images/s", file=sys.stderr, flush=True)
    return turns


def against(turns: dict[str, list[Measured]], side: str) -> dict[str, dict[str, Any]]:
    """The medians of each side; and how many times as fast as one side it was, in each round and
    in the median."""
    result: dict[str, dict[str, Any]] = {}
    for name, each in turns.items():
        result[name] = {key: median(turn[key] for turn in each) for key in each[0]}
        for key in ("images_per_second", "images_per_cpu_second"):
            pairs = zip(each, turns[side], strict=True)
            ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
            short = "ratio" if key == "images_per_second" else "ratio_per_cpu_second"
            result[name] |= {short: median(ratios), f"{short}s": ratios}
    return result


def record(benchmark: str, device: str, **result: Any) -> dict[str, Any]:
    """The content of a result file: what was found, where, with what, and when."""
    # Here and not above: a side without torch does not pay for its memory.
    import torch

    from residual.device import ComputeConfig, hardware_name
    from residual.runs.environment import versions
    from residual.storage import FORMAT

    return {
        "format": FORMAT,
        "benchmark": benchmark,
        **result,
        "hardware": hardware_name(ComputeConfig(device, torch.get_num_threads())),
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def in_words(result: dict[str, dict[str, Any]], side: str) -> Iterator[str]:
    """The comparison as a person reads it."""
    for name, each in result.items():
        yield (
            f"  {name:>22}: {each['images_per_second']:8,.1f} images/s, "
            f"{each['images_per_cpu_second']:8,.1f} per CPU second, peak memory "
            f"{each['peak_memory_bytes'] / 2**30:.2f} GiB, {each['ratio']:.2f} times {side} "
            f"({each['ratio_per_cpu_second']:.2f} per CPU second)"
        )
