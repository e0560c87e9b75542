"""Training ResNet-50 on images in memory: ours against torchvision's and timm's, in turn.

    python -m benchmarks.imagenet_training --device cuda --batch 256 --rounds 6

All sides train the same architecture (that of v1.5) on the same made-up batch, in the same
precision, in channels_last, and compiled on a GPU. Ours goes through the package's own loop with
its batch normalization, the others through a plain loop.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.sides import Measured, against, answer, compare, in_words, record, timed
from residual.device import ComputeConfig, compute_config
from residual.models.registry import build
from residual.storage import write_json
from residual.tasks.classification import loop
from residual.tasks.classification.train import recipe_for
from residual.training.loop import StepOptions

SIDES = ("torchvision", "timm", "ours")
WARM_UP = 3  # steps that are not counted


def made_up(config: ComputeConfig, batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Noise, and classes."""
    images = torch.rand(batch, 3, size, size, device=config.device)
    labels = torch.randint(0, 1000, (batch,), device=config.device)
    return images.contiguous(memory_format=config.memory_format), labels


def ours(network: str, config: ComputeConfig, batch: int, size: int) -> Iterator[Any]:
    """Steps of the package's loop."""
    recipe = replace(recipe_for(f"{network}-v1.5", ""), batch=batch, norm_group=batch, steps=2**62)
    net = config.prepare(build(recipe.network))
    batches = itertools.repeat(made_up(config, batch, size))
    return loop.train(loop.start(net, recipe), batches, recipe, StepOptions(config.autocast))


def theirs(side: str, network: str, config: ComputeConfig, batch: int, size: int) -> Iterator[Any]:
    """Steps of a plain loop."""
    if side == "timm":
        import timm

        net = timm.create_model(network)
    else:
        import torchvision

        net = torchvision.models.get_model(network)
    net = config.prepare(net).train()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, 0.1, 0.9)
    images, labels = made_up(config, batch, size)
    while True:
        with config.autocast():
            loss = F.cross_entropy(net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        yield loss.detach()


def measure(steps: Iterator[Any], config: ComputeConfig, counted: int, batch: int) -> Measured:
    """Images per second, and on a GPU the peak of the allocator."""
    cuda = config.device.startswith("cuda")
    next(steps)
    result = timed(steps, counted, batch, torch.cuda.synchronize if cuda else lambda: None)
    return result | {"peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else 0}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="", help="float32 on a processor, bf16 on a GPU")
    parser.add_argument("--batch", type=int, default=0, help="16 on a processor, 256 on a GPU")
    parser.add_argument("--size", type=int, default=224, help="pixels on a side of an image")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=0, help="counted steps of a measurement")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    config = compute_config(options.device, options.threads)
    on_gpu = config.device.startswith("cuda")
    precision = options.precision or ("bf16" if on_gpu else "float32")
    config = replace(config, precision=precision, compile=on_gpu)
    batch = options.batch or (256 if on_gpu else 16)
    counted = options.steps or (30 if on_gpu else 2)
    config.apply()
    if options.wait:
        shape = options.network, config, batch, options.size
        steps = ours(*shape) if options.wait == "ours" else theirs(options.wait, *shape)
        for _ in range(WARM_UP if on_gpu else 1):
            next(steps)
        answer(lambda: measure(steps, config, counted, batch))
        return
    passed = ["--network", options.network, "--device", config.device]
    passed += ["--threads", str(config.threads), "--precision", precision]
    passed += ["--batch", str(batch), "--size", str(options.size), "--steps", str(counted)]
    sides = dict.fromkeys(SIDES, passed)
    turns = compare("benchmarks.imagenet_training", sides, options.rounds)
    best = max(SIDES[:2], key=lambda name: against(turns, name)[name]["images_per_second"])
    result = record(
        "imagenet_training",
        config.device,
        training=against(turns, best),
        against=best,
        network=options.network,
        batch=batch,
        size=options.size,
        precision=precision,
        rounds=options.rounds,
        steps=counted,
    )
    if options.keep:
        write_json(options.keep, result)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{options.network}, batch {batch}, {options.size} px, {precision}, {result['hardware']}")
    print("\n".join(in_words(result["training"], best)))


if __name__ == "__main__":
    main()
