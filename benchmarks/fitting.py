"""Does each compared network fit 32 pictures, and after how many steps is none of them wrong?

    python -m benchmarks.fitting FOLDER --networks maxout nin --keep results/benchmarks/fitting.json

The pictures are the first of each class of a training set, without augmentation, photographs cut at
their centre. Each network has its own loss and heads, but RMSProp with one rate for all layers, for
the network is in question here and not its recipe: no dropout, no weight decay. The pictures are
judged as in a test. Of a few seeds, rates and starts the first that does it is taken, and all that
were tried are kept.
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.sides import record
from residual.data.datasets import Data, ImageFiles
from residual.data.sources import load
from residual.data.test_crops import Views
from residual.device import ComputeConfig, compute_config
from residual.models.baselines.layers import initialize
from residual.models.registry import BASELINES, build
from residual.storage import DEFAULT_ROOT, write_json
from residual.tasks.classification import loop
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.tasks.classification.train import recipe_for, takes_photographs
from residual.training.loop import StepOptions

PICTURES = 32
# Its own; the same with biases of 1 in the last layer, since NIN ends with a ReLU, behind which a
# class may be dead from the first step on; and He's.
STARTS = ("own", "raised", "he")
RATES = (5e-4, 1e-4)
EVERY = 5  # steps from one look at the error to the next


def pictures(data: Data, size: int) -> tuple[Tensor, Tensor]:
    """The first training pictures of each class in turn -> images (32, 3, H, W) of mean 0 and
    deviation 1 in each channel, and labels (32,). Photographs are cut to this size."""
    labels = data.train.labels
    by_class = [(labels == label).nonzero()[:, 0].tolist() for label in range(len(data.classes))]
    turns = itertools.zip_longest(*by_class)
    ids = [i for row in turns for i in row if i is not None][:PICTURES]
    if len(ids) < PICTURES:
        raise SystemExit(f"{data.name} has {len(ids)} training pictures, not {PICTURES}")
    if isinstance(data.train, ImageFiles):
        cut = Views("centre", (size, size), (round(size / 0.875),))
        crops = [cut(data.train.image(i), i, 0)[0] for i in ids]
        raw = torch.from_numpy(np.concatenate(crops)).permute(0, 3, 1, 2)
    else:
        raw = data.train.pixels[ids]
    deviation, mean = torch.std_mean(raw.float(), dim=(0, 2, 3), keepdim=True)
    return (raw - mean) / deviation, labels[ids]


def wrong(net: nn.Module, images: Tensor, labels: Tensor, config: ComputeConfig) -> int:
    """How many are not recognised, as in a test."""
    before = net.training
    net.eval()
    with torch.no_grad(), config.autocast():
        result = int((net(images).argmax(dim=1) != labels).sum())
    net.train(before)
    return result


def attempt(
    name: str,
    start: str,
    recipe: ClassificationRecipe,
    images: Tensor,
    labels: Tensor,
    config: ComputeConfig,
) -> dict[str, Any]:
    """One training, until all pictures are recognised or the steps are over."""
    torch.manual_seed(recipe.seed)
    net = build(name, int(labels.max()) + 1)
    if start == "he":
        initialize(net, nn.init.kaiming_normal_)
    elif start == "raised":
        nn.init.ones_(list(net.parameters())[-1])
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config.prepare(net)
    begun, errors = time.perf_counter(), None
    steps = loop.train(
        loop.start(net, recipe),
        itertools.repeat((images, labels)),
        recipe,
        StepOptions(config.autocast),
    )
    with closing(steps):  # type: ignore[type-var]
        for step in steps:
            if not math.isfinite(step.loss):
                errors = None
                break
            if step.number % EVERY == 0 or step.number == recipe.steps:
                errors = wrong(net, images, labels, config)
            if errors == 0:
                break
    return {
        "start": start,
        "seed": recipe.seed,
        "lr": recipe.lr,
        "steps": step.number,
        "wrong": errors,  # None where the loss was no longer a number
        "seconds": round(time.perf_counter() - begun, 1),
    }


def attempts(
    name: str, data: Data, size: int, options: argparse.Namespace, config: ComputeConfig
) -> Iterator[dict[str, Any]]:
    """Seed by seed, rate by rate, one start after another."""
    images, labels = (each.to(config.device) for each in pictures(data, size))
    images = images.contiguous(memory_format=config.memory_format)
    usual, steps = recipe_for(name, ""), options.steps
    for seed, lr, start in itertools.product(range(3), options.rates, STARTS):
        recipe = ClassificationRecipe(
            name, batch=PICTURES, norm_group=PICTURES, seed=seed,
            steps=steps, lr=lr, drops=(steps // 3, 2 * steps // 3), factor=0.3,
            optimizer="rmsprop", weight_decay=0.0, loss=usual.loss,
            auxiliary=0.0 if usual.auxiliary_steps else usual.auxiliary,  # which DSN drops in time
        )  # fmt: skip
        yield {"size": images.shape[-1]} | attempt(name, start, recipe, images, labels, config)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="what `residual train --data` takes")
    parser.add_argument("--networks", nargs="+", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--steps", type=int, default=400, help="of each attempt")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0: as many as it is made for")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--precision", default="bf16", choices=("float32", "bf16"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a file for the result")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    config = compute_config(options.device, options.threads, options.precision)
    config.apply()
    tried: dict[str, list[dict[str, Any]]] = {}
    for name in options.networks:
        size, photographs = options.size or BASELINES[name].pixels, takes_photographs(name)
        data = load(options.folder, DEFAULT_ROOT, size=size, as_files=photographs)
        tried[name] = []
        for result in attempts(name, data, size, options, config):
            tried[name].append(result)
            print(f"{name}: {result}", flush=True)
            if result["wrong"] == 0:
                break
    if options.keep:
        kept = record(
            "fitting",
            config.device,
            tried=tried,
            pictures=PICTURES,
            data={"name": data.name, "fingerprint": data.fingerprint},
            precision=config.precision,
        )
        write_json(options.keep, kept)


if __name__ == "__main__":
    main()
