"""The verbs `train` and `resume` of detection: a recipe and pictures with boxes become a run."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from residual.data.preprocessing import Preprocessing
from residual.device import ComputeConfig, check_finite
from residual.models.registry import model_spec
from residual.runs import folder, session
from residual.runs.load import Trained
from residual.runs.results import environment
from residual.tasks.detection import datasets as reading
from residual.tasks.detection.datasets import DetectionData
from residual.tasks.detection.faster_rcnn import (
    VGGS,
    FasterRCNN,
    backbone_weights,
    build,
    check_network,
)
from residual.tasks.detection.load import TrainedDetector, recipe_of
from residual.tasks.detection.metrics import check_pycocotools
from residual.tasks.detection.recipe import RECIPES, Recipe
from residual.tasks.detection.task import BEGUN, Detection
from residual.training import checkpoint
from residual.training.checkpoint import weights_sha256
from residual.training.recipe import refuse_idle, to_json
from residual.training.task import Event, RunOptions


def recipe_for(network: str, name: str, sort: str) -> Recipe:
    """A recipe by name; `auto` goes by what the annotations are. Raises ValueError."""
    if name == "auto":
        name = "coco" if sort == "coco" else "voc07"
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are auto, {', '.join(RECIPES)}")
    recipe = replace(RECIPES[name], network=model_spec(network).name)
    if sort == "coco" and name != "coco":
        recipe = replace(recipe, train_split="train", test_split="val")
    return recipe


def with_splits(recipe: Recipe, path: Path, chosen: Collection[str]) -> Recipe:
    """The recipe with a folder's own names of splits, but for the fields that a user has chosen.
    Raises ValueError where it cannot be told which is which."""
    if {"train_split", "test_split"} <= set(chosen):
        return recipe
    train, test = reading.choose_splits(path, recipe.train_split, recipe.test_split)
    return replace(
        recipe,
        train_split=recipe.train_split if "train_split" in chosen else train,
        test_split=recipe.test_split if "test_split" in chosen else test,
    )


def load(path: Path, recipe: Recipe, classes: tuple[str, ...] | None = None) -> DetectionData:
    """The splits of a recipe. The classes are those of a run that goes on, or of the split that is
    trained on."""
    train = reading.load(path, recipe.train_split, classes, recipe.reading)
    if not train.examples:
        raise ValueError(f"{train.name} holds no pictures")
    if not train.classes:
        raise ValueError(f"{train.name} holds no objects")
    if train.format == "coco":
        check_pycocotools()  # not only after the training
    test = reading.load(path, recipe.test_split, train.classes, recipe.reading)
    return DetectionData(train, test)


def check(recipe: Recipe, how: ComputeConfig) -> None:
    """Raises ValueError where this cannot be trained here, before a picture is read."""
    check_network(recipe.network)
    if (
        recipe.norm == "frozen"
        and not recipe.start
        and model_spec(recipe.network).family != "rival"
    ):
        raise ValueError(
            "frozen batch normalization has the statistics of weights to begin with; name them "
            "with --weights, or train from scratch: norm=group and fixed=0, as in --recipe scratch"
        )
    own = recipe.drops or recipe.warmup[0] or recipe.steps < 6
    if recipe.schedule == "alternating" and own:
        raise ValueError(
            "the alternating schedule has drops of its own, no warm-up, and at least 6 steps; say "
            "--set drops= --set warmup=0,0.001"
        )
    if recipe.shorter > recipe.longest:
        raise ValueError(
            f"shorter={recipe.shorter} is more than longest={recipe.longest}, the most pixels that "
            f"the longer side may have"
        )
    if recipe.background >= 0.5:
        raise ValueError(
            f"background is below 0.5, the overlap from which on a region is an object's, not "
            f"{recipe.background}"
        )
    if recipe.batch % how.processes:
        raise ValueError(
            f"{how.processes} processes cannot share a batch of {recipe.batch} pictures equally; "
            f"say --set batch={how.processes}, which is another recipe"
        )
    if recipe.fixed and not recipe.start:
        raise ValueError(
            "stages that do not learn need weights to begin with; name them with --weights, or say "
            "--set fixed=0"
        )
    device = torch.device(how.device).type
    if how.deterministic and device != "cpu" and recipe.pooling == "pool":
        raise ValueError(
            f"RoI pooling has no deterministic kernel on {device}; say --set pooling=align, or "
            f"leave out --deterministic"
        )


def check_effects(recipe: Recipe, usual: Recipe) -> None:
    """Raises ValueError for a field that was set and that changes nothing."""
    own = recipe.schedule == "alternating"
    drops = any(drop < recipe.steps for drop in recipe.drops)
    norms = model_spec(recipe.network).family != "rival"
    acting = {
        "drops": (drops or own, f"the rate drops within the {recipe.steps:,} steps"),
        "factor": (drops or own, "the rate never drops by it"),
        "norm": (norms, f"{recipe.network} has no batch normalization to replace"),
    }
    refuse_idle(recipe, usual, acting)


def begin(
    run: Path | None,
    recipe: Recipe,
    data: DetectionData,
    where: dict[str, str],
    how: ComputeConfig,
    weights: Trained | None = None,
) -> Path:  # fmt: skip
    """Make a run's folder, runs/<network>-<n> without one. `where` says how the data is found
    again."""
    how = replace(how, precision="float32") if how.precision == "auto" else how
    known = environment(data, where, how)
    if isinstance(weights, TrainedDetector):
        known["before"] = weights.annotations

    def fill(own: Path) -> None:
        if weights is not None:
            begun_with(own, recipe, data, weights)

    split = split_of(recipe, data)
    return folder.create(run, to_json(recipe), data.train.classes, known, split, fill)


def split_of(recipe: Recipe, data: DetectionData) -> dict[str, list[str]]:
    """Which pictures are in which part of a split that was divided once; {} of any other."""
    parts = {recipe.train_split: data.train, recipe.test_split: data.test}
    return {
        name: [each.name for each in own.examples] for name, own in parts.items() if ":" in name
    }


def begun_with(run: Path, recipe: Recipe, data: DetectionData, weights: Trained) -> None:
    """The checkpoint before the first step of a run that begins with a network's weights."""
    net = session.fresh(recipe.seed, lambda: build(recipe, len(data.train.classes)))
    net.load_state_dict(begins_with(weights, net), strict=False)
    mean, std = (
        each.mean(dim=(1, 2), keepdim=True)
        for each in (weights.preprocessing.mean, weights.preprocessing.std)
    )
    size = recipe.shorter, recipe.shorter
    before = Preprocessing(mean, std.contiguous(), size, recipe.shorter)
    content = session.start_with(recipe, data.train.classes, net, before)
    if recipe.schedule == "alternating":
        checkpoint.save(run / BEGUN, *content)
    folder.save(run, *content)


def begins_with(weights: Trained, net: FasterRCNN) -> dict[str, Tensor]:
    """What a detector takes over: from a network all but its last layer; from a detector all that
    does not depend on its classes, where it has the same shape."""
    state = weights.net.state_dict()
    if not isinstance(weights, TrainedDetector):
        return backbone_weights(state, net)
    own = net.state_dict()
    last = ("score.", "shift.")
    return {k: t for k, t in state.items() if not k.startswith(last) and t.shape == own[k].shape}


def from_weights(recipe: Recipe, weights: Trained) -> Recipe:
    """The recipe for a training that begins with these. Raises ValueError where they are another
    network's, and NotFinite."""
    if weights.network != recipe.network:
        raise ValueError(f"the weights are those of {weights.network}, not of {recipe.network}")
    norm = weights.recipe.norm if isinstance(weights, TrainedDetector) else "frozen"
    if norm != recipe.norm and model_spec(recipe.network).name not in VGGS:
        kinds = {"frozen": "batch", "group": "group"}
        raise ValueError(
            f"the weights are of {kinds[norm]} normalization, and the recipe is of "
            f"{kinds[recipe.norm]} normalization: say --set norm={norm}"
        )
    state = weights.net.state_dict()
    check_finite(state, "these weights are none to begin with")
    return replace(recipe, start=weights_sha256(state))


def advance(run: Path, data: DetectionData, options: RunOptions) -> Iterator[Event]:
    """Take the steps that remain of a run; see `runs.session.advance`."""
    return session.advance(run, data, options, recipe_of, Detection)
