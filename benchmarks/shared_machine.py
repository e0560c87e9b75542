"""Training beside other work on one machine: the share of its own speed that each side keeps.

    python -m benchmarks.shared_machine --rounds 5

ResNet-20 on the digits, by `residual train` as it is, by the same with GNU OpenMP's own default of
spinning threads, and by the usual loop. Each side is measured alone, beside a process that only
counts, and beside a second training of its own kind. Every measurement is a process of its own.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cifar_training import ours, usual
from benchmarks.sides import SPINNING, Measured, Side, answer, record, timed
from residual.data.sources import digits
from residual.device import compute_config
from residual.storage import write_json
from residual.tasks.classification.recipe import with_steps
from residual.tasks.classification.train import recipe_for

SIDES: dict[str, dict[str, str]] = {"ours": {}, "ours, spinning": SPINNING, "usual": {}}
NEIGHBOURS = ("alone", "beside a busy loop", "beside another training")
NETWORK = "resnet20"
WARM_UP = 10  # steps of each measurement that are not counted
FOREVER = 10**6  # steps of a neighbour


def steps_of(side: str, threads: int) -> Iterator[Any]:
    """Steps of a side, behind those that warm it up."""
    recipe = with_steps(recipe_for(NETWORK, "digits"), FOREVER)
    train = usual if side == "usual" else ours
    steps = train(recipe, compute_config("cpu", threads, "float32"), digits())
    for _ in itertools.islice(steps, WARM_UP):
        pass
    return steps


@dataclass(frozen=True)
class Trial:
    """How each measurement is made."""

    threads: int
    steps: int

    def started(self, stack: ExitStack, side: str) -> Side:
        """A process of a side that has warmed up and waits for its turn."""
        options = ["--threads", str(self.threads), "--steps", str(self.steps)]
        return Side(stack, "benchmarks.shared_machine", side, options, SIDES[side])

    @contextmanager
    def neighbour(self, kind: str, side: str) -> Iterator[None]:
        """Other work on the machine, until the measurement is over."""
        with ExitStack() as stack:
            if kind == "beside a busy loop":
                loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(loop.wait)
                stack.callback(loop.kill)
            elif kind == "beside another training":
                forever = Trial(self.threads, FOREVER)
                forever.started(stack, side).begin()
            yield

    def measured(self, side: str, kind: str) -> Measured:
        with self.neighbour(kind, side), ExitStack() as stack:
            return self.started(stack, side).turn()


def compare(trial: Trial, rounds: int) -> dict[str, dict[str, list[float]]]:
    """All sides with all neighbours in turn -> for each its speeds, in images/s."""
    result: dict[str, dict[str, list[float]]] = {s: {k: [] for k in NEIGHBOURS} for s in SIDES}
    for n in range(rounds):
        for kind in NEIGHBOURS:
            for side in SIDES if n % 2 == 0 else reversed(SIDES):
                speed = trial.measured(side, kind)["images_per_second"]
                result[side][kind].append(speed)
                print(f"round {n + 1}, {side}, {kind}: {speed:,.0f} images/s", file=sys.stderr)
    return result


def summary(speeds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """For each side its median speeds, the share of its own speed alone that it keeps beside each
    neighbour, and its speed alone beside that of ours with spinning threads; each share is the
    median over the rounds."""
    result: dict[str, dict[str, Any]] = {}
    for side, by_kind in speeds.items():
        alone = by_kind["alone"]
        kept = {
            kind: median(a / b for a, b in zip(by_kind[kind], alone, strict=True))
            for kind in NEIGHBOURS[1:]
        }
        ratios = [a / b for a, b in zip(alone, speeds["ours, spinning"]["alone"], strict=True)]
        medians = {kind: median(each) for kind, each in by_kind.items()}
        result[side] = {"images_per_second": medians, "kept": kept, "alone_ratio": median(ratios)}
    return result


def in_words(result: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The comparison as a person reads it."""
    for side, each in result.items():
        shares = ", ".join(f"{share:.2f} {kind}" for kind, share in each["kept"].items())
        yield (
            f"  {side:>14}: {each['images_per_second']['alone']:,.0f} images/s alone "
            f"({each['alone_ratio']:.2f} times ours, spinning), of which it keeps {shares}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="counted steps of a measurement")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.wait:
        steps = steps_of(options.wait, options.threads)
        answer(lambda: timed(steps, options.steps, 128, lambda: None))
        return
    speeds = compare(Trial(options.threads, options.steps), options.rounds)
    compute_config("cpu", options.threads, "float32").apply()
    result = record(
        "shared_machine", "cpu",
        network=NETWORK, sides=summary(speeds), speeds=speeds, cores=os.cpu_count(),
        rounds=options.rounds, steps=options.steps,
    )  # fmt: skip
    if options.keep:
        write_json(options.keep, result)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{NETWORK} on the digits, {result['hardware']}")
    print("\n".join(in_words(result["sides"])))


if __name__ == "__main__":
    main()
