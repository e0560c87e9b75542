"""Detectors with random weights that detect something, for tests."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from residual.runs import folder
from residual.tasks.detection import loader
from residual.tasks.detection.faster_rcnn import build
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.recipe import SCRATCH
from residual.training.checkpoint import with_preprocessing
from residual.training.recipe import to_json

CLASSES = ("cat", "dog", "bird")
SMALL = replace(
    SCRATCH, network="resnet18", shorter=64, longest=110, bins=2, scales=(16, 32), smallest=1
)


def detector(**fields) -> TrainedDetector:
    """Drawn so that objects of every class are found, with statistics that are not the start's."""
    return deepcopy(template(**fields))


@cache
def template(**fields) -> TrainedDetector:
    recipe = replace(SMALL, **fields)
    torch.manual_seed(0)
    net = build(recipe, len(CLASSES))
    if recipe.network == "vgg16":  # of smaller regions, for 100 million weights less
        net.head.fc6[0] = nn.Conv2d(512, 4096, recipe.bins)
    for layer, deviation in ((net.proposing.score, 0.05), (net.proposing.shift, 0.02)):
        nn.init.normal_(layer.weight, std=deviation)
    nn.init.normal_(net.score.weight, std=2 / net.score.in_features**0.5)
    nn.init.normal_(net.shift.weight, std=1 / net.shift.in_features**0.5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 2, 4)
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    before = loader.imagenet_preprocessing(recipe.shorter)
    return TrainedDetector(net.eval(), recipe.network, CLASSES, before, recipe, step=7)


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size)


def run_of(own: TrainedDetector, run: Path) -> Path:
    """A run's folder, as a training leaves it."""
    recipe = to_json(own.recipe)
    folder.create(run, recipe, own.classes, {}, {})
    tensors = {f"net.{name}": tensor for name, tensor in own.net.state_dict().items()}
    header = {"step": own.step, "network": own.recipe.network, "recipe": recipe}
    parts = with_preprocessing(tensors, header | {"classes": own.classes}, own.preprocessing)
    folder.save(run, *parts)
    return run
