"""A short trial on this machine: which precision, memory format and compilation pay."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from residual.files import read_json, write_json
from residual.rivals.networks import build
from residual.runs.results import versions
from residual.runs.supply import crop_size, made_up
from residual.training import loop
from residual.training.recipe import Recipe
from residual.world import Setting, hardware

SHORTEST = 1_000  # steps of a training for which a trial is worth its seconds
COMPILED = 10_000  # steps of a training for which a compilation is worth its minute
GAIN = 1.1  # so much faster another setting must be, to be taken in place of the first
STEPS = 5


def candidates(how: Setting, steps: int) -> Iterator[Setting]:
    """The settings worth a trial, the usual one of the device first."""
    if torch.device(how.device).type == "cpu":  # compilation gained nothing on processors
        yield replace(how, precision="float32")
        yield replace(how, precision="float32", channels_last=False)
        yield replace(how, precision="bf16")
        return
    yield replace(how, precision="bf16")
    yield replace(how, precision="float32")
    if steps >= COMPILED:
        yield replace(how, precision="bf16", compile=True)


def settled(how: Setting, recipe: Recipe, classes: int, cache: Path) -> Setting:
    """The setting with every `auto` decided. A trial is made once for a machine and a network, and
    kept in a file, so that the same command computes in the same way the next time."""
    if how.precision != "auto":
        return how
    usual, *others = candidates(how, recipe.steps)
    if recipe.steps < SHORTEST:
        return usual
    key = " ".join(
        [
            hardware(how), versions()["torch"], recipe.network,
            f"{recipe.batch}/{recipe.norm_group}", f"{crop_size(recipe)}px",
            *("compiled" for _ in range(recipe.steps >= COMPILED)),
        ]
    )  # fmt: skip
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # a cache: where it is gone or damaged, the trial is made
        known = read_json(cache)
    if key not in known:
        timed = {each: seconds_per_step(each, recipe, classes) for each in (usual, *others)}
        chosen = paying(timed)
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, known | {key: asdict(chosen)})
        return chosen
    return replace(Setting(**known[key]), deterministic=how.deterministic, processes=how.processes)


def paying(timed: dict[Setting, float]) -> Setting:
    """Of settings with their seconds the first, or the fastest where that pays."""
    usual, best = next(iter(timed)), min(timed, key=lambda each: timed[each])
    return best if timed[best] * GAIN < timed[usual] else usual


def seconds_per_step(how: Setting, recipe: Recipe, classes: int) -> float:
    """The median over a few steps of a fresh network on one norm group of made-up images, after a
    first one that is not counted."""
    with how.applied():
        return _seconds_per_step(how, recipe, classes)


def _seconds_per_step(how: Setting, recipe: Recipe, classes: int) -> float:
    with torch.random.fork_rng(devices=[]):
        net = how.place(build(recipe.network, classes))
    short = replace(recipe, batch=recipe.norm_group, steps=1 + STEPS, repeats=1)
    seconds, begun = [], time.perf_counter()
    batches = made_up(recipe, recipe.norm_group, how)
    for step in loop.train(loop.start(net, short), batches, short, loop.Pass(how.autocast)):
        float(step.loss)  # waits for the device
        seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    return median(seconds[1:])
