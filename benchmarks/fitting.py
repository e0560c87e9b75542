"""Every compared network fits 32 pictures: after how many steps none of them is wrong.

    python -m benchmarks.fitting FOLDER --networks maxout nin --keep results/benchmarks/fitting.json

The pictures are the first of each class of a folder, cut at their centre, without augmentation.
Each network has its own loss and heads, but RMSProp with one rate for all layers, for the network
is in question here and not its recipe: no dropout, no weight decay. The pictures are judged as in a
test. Of a few seeds, rates and starts the first that does it is taken, and all that were tried are
kept.
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sides import record
from residual.data.decode import decode
from residual.files import write_json
from residual.rivals.networks import RIVALS, build
from residual.rivals.parts import drawn
from residual.runs.training import recipe_for
from residual.training import loop
from residual.training.recipe import Recipe
from residual.world import Setting, setting

PICTURES = 32
# Its own; the same with biases of 1 in the last layer, since NIN ends with a ReLU, behind which a
# class may be dead from the first step on; and He's.
STARTS = ("own", "raised", "he")
RATES = (5e-4, 1e-4)
EVERY = 5  # steps from one look at the error to the next


def pictures(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """The first pictures of each class in turn -> images (32, 3, size, size) of mean 0 and
    deviation 1 in each channel, and labels (32,)."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    rows = itertools.zip_longest(*(sorted(path.iterdir()) for path in classes))
    found = [(path, n) for row in rows for n, path in enumerate(row) if path][:PICTURES]
    if len(found) < PICTURES:
        raise SystemExit(
            f"{folder} has {len(found)} pictures in folders of classes, not {PICTURES}"
        )
    raw = torch.stack([decode(path, (size, size), round(size / 0.875)) for path, _ in found])
    deviation, mean = torch.std_mean(raw.float(), dim=(0, 2, 3), keepdim=True)
    return (raw - mean) / deviation, torch.tensor([label for _, label in found])


def wrong(net: nn.Module, images: Tensor, labels: Tensor, how: Setting) -> int:
    """How many are not recognised, as in a test."""
    net.eval()
    with torch.no_grad(), how.autocast():
        return int((net(images).argmax(dim=1) != labels).sum())


def attempt(
    name: str, start: str, recipe: Recipe, images: Tensor, labels: Tensor, how: Setting
) -> dict[str, Any]:
    """One training, until all pictures are recognised or the steps are over."""
    torch.manual_seed(recipe.seed)
    net = build(name, int(labels.max()) + 1)
    if start == "he":
        drawn(net, "he")
    elif start == "raised":
        nn.init.ones_(list(net.parameters())[-1])
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    how.place(net)
    begun, losses, errors = time.perf_counter(), [], [PICTURES]
    steps = loop.train(
        loop.start(net, recipe),
        itertools.repeat((images, labels)),
        recipe,
        loop.Pass(how.autocast),
    )
    with closing(steps):  # type: ignore[type-var]
        for step in steps:
            losses.append(float(step.loss))
            if not math.isfinite(losses[-1]):
                break
            if step.number % EVERY == 0:
                errors.append(wrong(net, images, labels, how))
            if errors[-1] == 0:
                break
    found = {
        "start": start,
        "seed": recipe.seed,
        "lr": recipe.lr,
        "steps": len(losses),
        "wrong": errors[-1],
    }
    return found | {"loss": losses[-1], "seconds": round(time.perf_counter() - begun, 1)}


def attempts(
    name: str, folder: Path, size: int, steps: int, rates: Sequence[float], how: Setting
) -> Iterator[dict[str, Any]]:
    """One rate after another."""
    images, labels = pictures(folder, size or RIVALS[name].pixels)
    images, labels = images.to(how.device), labels.to(how.device)
    images = images.contiguous(memory_format=how.memory_format)
    own = recipe_for(name, "")
    for seed, lr, start in itertools.product(range(3), rates, STARTS):
        recipe = Recipe(
            name, batch=PICTURES, norm_group=PICTURES, seed=seed,
            steps=steps, lr=lr, drops=(steps // 3, 2 * steps // 3), factor=0.3,
            optimizer="rmsprop", weight_decay=0.0, loss=own.loss,
            auxiliary=0.0 if own.auxiliary_steps else own.auxiliary,  # which DSN drops in time
        )  # fmt: skip
        yield attempt(name, start, recipe, images, labels, how)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="one folder of pictures for each class")
    parser.add_argument("--networks", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--steps", type=int, default=400, help="of each attempt")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0: as many as it is made for")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a file for the result")
    options = parser.parse_args()
    how = setting(options.device, options.threads, options.precision)
    how.apply()
    tried: dict[str, list[dict[str, Any]]] = {}
    for name in options.networks:
        tried[name] = []
        for found in attempts(
            name, options.folder, options.size, options.steps, options.rates, how
        ):
            tried[name].append(found)
            print(f"{name}: {found}", flush=True)
            if found["wrong"] == 0:
                break
        if options.keep:
            write_json(options.keep, record("fitting", how.device, tried=tried,
                       pictures=PICTURES, size=options.size, precision=how.precision))  # fmt: skip


if __name__ == "__main__":
    main()
