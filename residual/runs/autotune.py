"""Short trials on this machine: the fastest precision, memory format, threads and compilation."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from residual.device import ComputeConfig, available_cores
from residual.storage import read_json_object, write_json

T = TypeVar("T")
Measure = Callable[[ComputeConfig], float]  # seconds of a training step

SHORTEST = 1_000  # steps of a training for which a trial is worth its seconds
COMPILED = 10_000  # steps of a training for which a compilation is worth its minute
MOST_AT_ONCE = 4  # trainings: each has the data and an interpreter of its own in memory
GAIN = 1.1  # the speed-up for which another configuration replaces the first


def candidates(config: ComputeConfig, steps: int) -> Iterator[ComputeConfig]:
    """The configurations worth a trial, the default of the device first."""
    default = replace(config, threads=config.threads or available_cores())
    if torch.device(config.device).type == "cpu":  # compilation gained nothing on processors
        yield replace(default, precision="float32")
        yield replace(default, precision="float32", channels_last=False)
        yield replace(default, precision="bf16")
        if not config.threads:
            for threads in halvings(default.threads)[1:]:
                yield replace(default, precision="float32", threads=threads)
        return
    yield replace(default, precision="bf16")
    yield replace(default, precision="float32")
    if steps >= COMPILED:
        yield replace(default, precision="bf16", compile=True)


def halvings(threads: int) -> list[int]:
    """The number of threads, half of it, and so on down to one."""
    return [threads >> n for n in range(threads.bit_length())]


def fastest(seconds: dict[T, float]) -> T:
    """The first choice, or the fastest where it gains enough."""
    default, best = next(iter(seconds)), min(seconds, key=lambda choice: seconds[choice])
    return best if seconds[best] * GAIN < seconds[default] else default


def autotune(
    config: ComputeConfig,
    steps: int,
    measure: Measure,
    key: Callable[[ComputeConfig], str],
    cache: Path,
) -> ComputeConfig:
    """The configuration with precision `auto` replaced, by a trial where the training has enough
    steps. `key` names everything that its outcome depends on."""
    if config.precision != "auto":
        return config
    default, *others = candidates(config, steps)
    if steps < SHORTEST:
        return default

    def trial() -> dict[str, Any]:
        return asdict(fastest({choice: measure(choice) for choice in (default, *others)}))

    words = ["compiled"] * (steps >= COMPILED) + ["fewer threads"] * (not config.threads)
    chosen = ComputeConfig(**cached(cache, " ".join([key(default), *words]), trial))
    return replace(chosen, deterministic=config.deterministic, processes=config.processes)


def trainings_at_once(
    config: ComputeConfig,
    steps: list[int],
    measure: Measure,
    key: Callable[[ComputeConfig], str],
    cache: Path,
) -> int:
    """How many trainings, of so many steps each, run at once on equal shares of the processor's
    threads: the number that gives the most steps per second. The speed of one training alone on
    each share is measured; that trainings do not slow one another is assumed."""
    if torch.device(config.device).type != "cpu" or sum(steps) < SHORTEST:
        return 1
    default = replace(config, precision="float32") if config.precision == "auto" else config

    def trial() -> dict[int, float]:
        return {
            n: measure(replace(default, threads=threads)) / n
            for threads in halvings(default.threads)
            if (n := default.threads // threads) <= min(MOST_AT_ONCE, len(steps))
        }

    words = f"{key(default)} {default.precision} side by side, of {len(steps)}"
    return fastest({int(n): seconds for n, seconds in cached(cache, words, trial).items()})


def cached(cache: Path, key: str, trial: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
    """The outcome of a trial, from a file where it was made before: the same command then computes
    in the same way."""
    outcomes: dict[str, dict[Any, Any]] = {}
    with suppress(OSError, ValueError):  # a lost or damaged cache is made again
        outcomes = read_json_object(cache)
    if key not in outcomes:
        outcomes[key] = trial()
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, outcomes)
    return outcomes[key]
