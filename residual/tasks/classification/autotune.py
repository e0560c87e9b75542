"""A short trial on this machine: which precision, memory format, threads and compilation pay."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from residual.device import ComputeConfig, available_cores, hardware_name
from residual.models.registry import build
from residual.runs.results import versions
from residual.storage import read_json, write_json
from residual.tasks.classification import loop
from residual.tasks.classification.loader import crop_size, made_up
from residual.tasks.classification.recipe import Recipe

T = TypeVar("T")

SHORTEST = 1_000  # steps of a training for which a trial is worth its seconds
AT_ONCE = 4  # trainings at most: each has the data and an interpreter of its own in memory
COMPILED = 10_000  # steps of a training for which a compilation is worth its minute
GAIN = 1.1  # so much faster another setting must be, to be taken in place of the first
STEPS = 5


def candidates(how: ComputeConfig, steps: int) -> Iterator[ComputeConfig]:
    """The settings worth a trial, the usual one of the device first."""
    usual = replace(how, threads=how.threads or available_cores())
    if torch.device(how.device).type == "cpu":  # compilation gained nothing on processors
        yield replace(usual, precision="float32")
        yield replace(usual, precision="float32", channels_last=False)
        yield replace(usual, precision="bf16")
        if not how.threads:
            for fewer in halves(usual.threads)[1:]:
                yield replace(usual, precision="float32", threads=fewer)
        return
    yield replace(usual, precision="bf16")
    yield replace(usual, precision="float32")
    if steps >= COMPILED:
        yield replace(usual, precision="bf16", compile=True)


def halves(threads: int) -> list[int]:
    """So many threads, half of them, and so on down to one."""
    return [threads >> n for n in range(threads.bit_length())]


def settled(how: ComputeConfig, recipe: Recipe, classes: int, cache: Path) -> ComputeConfig:
    """The setting with every `auto` decided, by a trial where the training is long enough."""
    if how.precision != "auto":
        return how
    usual, *others = candidates(how, recipe.steps)
    if recipe.steps < SHORTEST:
        return usual

    def trial() -> dict[str, Any]:
        timed = {each: seconds_per_step(each, recipe, classes) for each in (usual, *others)}
        return asdict(paying(timed))

    words = ["compiled"] * (recipe.steps >= COMPILED) + ["fewer threads"] * (not how.threads)
    chosen = ComputeConfig(**kept(cache, key_of(usual, recipe, *words), trial))
    return replace(chosen, deterministic=how.deterministic, processes=how.processes)


def side_by_side(how: ComputeConfig, recipes: Sequence[Recipe], classes: int, cache: Path) -> int:
    """How many of several trainings run at once, each on its share of the processor's threads: the
    number that gives the most steps per second. The speed of the first training alone, on each
    share, is measured; that trainings do not slow one another is assumed."""
    first, steps = recipes[0], sum(recipe.steps for recipe in recipes)
    if torch.device(how.device).type != "cpu" or steps < SHORTEST:
        return 1
    usual = replace(how, precision="float32") if how.precision == "auto" else how

    def trial() -> dict[int, float]:
        shares = [replace(usual, threads=threads) for threads in halves(usual.threads)]
        return {
            n: seconds_per_step(share, first, classes) / n
            for share in shares
            if (n := usual.threads // share.threads) <= min(AT_ONCE, len(recipes))
        }

    key = key_of(usual, first, usual.precision, f"side by side, of {len(recipes)}")
    return paying({int(n): seconds for n, seconds in kept(cache, key, trial).items()})


def key_of(how: ComputeConfig, recipe: Recipe, *words: str) -> str:
    """What a trial's outcome may depend on."""
    return " ".join(
        [
            hardware_name(how), versions()["torch"], recipe.network,
            f"{recipe.batch}/{recipe.norm_group}", f"{crop_size(recipe)}px", *words,
        ]
    )  # fmt: skip


def kept(cache: Path, key: str, trial: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
    """The outcome of a trial. It is made once for a machine and a network, and kept in a file, so
    that the same command computes in the same way the next time."""
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # a cache: where it is gone or damaged, the trial is made
        known = read_json(cache)
    if key not in known:
        known[key] = trial()
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, known)
    outcome: dict[Any, Any] = known[key]
    return outcome


def paying(timed: dict[T, float]) -> T:
    """Of choices with their seconds the first, or the fastest where that pays."""
    usual, best = next(iter(timed)), min(timed, key=lambda each: timed[each])
    return best if timed[best] * GAIN < timed[usual] else usual


def seconds_per_step(how: ComputeConfig, recipe: Recipe, classes: int) -> float:
    """The median over a few steps of a fresh network on one norm group of made-up images, after a
    first one that is not counted."""
    with how.activate():
        return _seconds_per_step(how, recipe, classes)


def _seconds_per_step(how: ComputeConfig, recipe: Recipe, classes: int) -> float:
    with torch.random.fork_rng(devices=[]):
        net = how.prepare(build(recipe.network, classes))
    short = replace(recipe, batch=recipe.norm_group, steps=1 + STEPS, repeats=1)
    seconds, begun = [], time.perf_counter()
    batches = made_up(recipe, recipe.norm_group, how)
    for step in loop.train(loop.start(net, short), batches, short, loop.Pass(how.autocast)):
        float(step.loss)  # waits for the device
        seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    return median(seconds[1:])
