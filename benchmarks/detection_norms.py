"""Detectors from nothing: group normalization against batch statistics of a step's pictures.

    python -m benchmarks.detection_norms BCCD --steps 600

Both are trained by the recipe `scratch` on the same pictures in the same order, and differ in their
normalization alone. Batch normalization takes its statistics over the pictures of a step, and in
the head over the regions of one; it is tested with running ones.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.sides import record
from residual.device import compute_config
from residual.storage import write_json
from residual.tasks.detection import loader, loop, train
from residual.tasks.detection.datasets import DetectionData
from residual.tasks.detection.evaluate import EvalOptions, evaluate
from residual.tasks.detection.faster_rcnn import FasterRCNN, FusedConvBatchNorm, build
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.recipe import SCRATCH, DetectionRecipe, Testing, with_steps
from residual.training.loop import StepOptions
from residual.training.recipe import parse_assignment, to_json


@contextmanager
def moving() -> Iterator[None]:
    """Batch normalization learns, and takes statistics in training, as in classification."""
    usual = FasterRCNN.train
    FasterRCNN.train = nn.Module.train  # type: ignore[method-assign]
    try:
        yield
    finally:
        FasterRCNN.train = usual  # type: ignore[method-assign]


def trained(recipe: DetectionRecipe, data: DetectionData, config: Any) -> dict[str, Any]:
    """Average precision on the test split after a whole training."""
    torch.manual_seed(recipe.seed)
    net = build(recipe, len(data.train.classes))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    config.prepare(net)
    device = torch.device(config.device)
    preprocessing = loader.imagenet_preprocessing(recipe.shorter)
    feed = loader.TrainingLoader(data.train, recipe, preprocessing.to(device), device)
    learner = loop.start(net, recipe)
    for module in list(net.modules()):  # statistics that move are no fixed map of a convolution's
        for name, child in module.named_children():
            if isinstance(child, FusedConvBatchNorm):
                setattr(module, name, nn.Sequential(*child))
    for step in loop.train(
        learner,
        feed.batches(),
        recipe,
        StepOptions(config.autocast, memory_format=config.memory_format),
    ):
        if step.number % 50 == 0:
            print(f"{recipe.norm}: step {step.number}, loss {float(step.loss):.3f}", flush=True)
    done = TrainedDetector(
        net.eval(), recipe.network, data.train.classes, preprocessing, recipe, learner.step
    )
    result = evaluate([done], data.test, Testing(), EvalOptions(config))
    ap: dict[str, Any] = result["ap"]
    return ap


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--set", action="append", default=[], help="field=value of the recipe")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a file for the result")
    options = parser.parse_args()
    config = compute_config("auto", options.threads, options.precision)
    config.apply()
    changes: dict[str, Any] = dict(parse_assignment(DetectionRecipe, word) for word in options.set)
    recipe = replace(with_steps(SCRATCH, options.steps), network=options.network, **changes)
    data = train.load_data(recipe, {"where": str(options.folder)})
    result = {"group": trained(recipe, data, config)}
    with moving():
        result["batch"] = trained(replace(recipe, norm="frozen"), data, config)
    for name, ap in result.items():
        print(f"{name} normalization: AP50 {ap['AP50-area']['mean']:.2f} %, by area")
    kept = record(
        "detection_norms",
        config.device,
        norms=result,
        recipe_of_detectors=to_json(recipe),
        data={"name": data.test.name, "fingerprint": data.test.fingerprint},
        precision=config.precision,
    )
    if options.keep:
        write_json(options.keep, kept)


if __name__ == "__main__":
    main()
