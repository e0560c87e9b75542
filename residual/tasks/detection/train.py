"""Prepares and starts the training of a detector: recipe, data, initial weights, run folder."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.datasets import Progress, no_progress
from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig, check_finite
from residual.models.registry import model_spec
from residual.runs import folder, session
from residual.runs.environment import environment
from residual.runs.load import Trained
from residual.tasks.detection import datasets
from residual.tasks.detection.datasets import DetectionData, annotation_format
from residual.tasks.detection.faster_rcnn import (
    VGGS,
    FasterRCNN,
    backbone_weights,
    build,
    check_network,
)
from residual.tasks.detection.load import TrainedDetector, read_recipe
from residual.tasks.detection.loader import median_side
from residual.tasks.detection.metrics import check_pycocotools
from residual.tasks.detection.recipe import RECIPES, DetectionRecipe, changed, with_steps
from residual.tasks.detection.task import INITIAL, Detection
from residual.training import checkpoint
from residual.training.events import Event, RunOptions
from residual.training.recipe import check_changes, check_effect, to_json

__all__ = [
    "advance", "begin", "check_effects", "choose_recipe", "complete_recipe", "load_data", "notices",
    "read_recipe",
]  # fmt: skip


def recipe_for(network: str, data: str, name: str = "auto") -> DetectionRecipe:
    """A recipe by name, or the usual one of the data's annotation format. Raises ValueError."""
    coco = annotation_format(Path(data)) == "coco"
    if name == "auto":
        name = "coco" if coco else "voc07"
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are auto, {', '.join(RECIPES)}")
    recipe = replace(RECIPES[name], network=model_spec(network).name)
    if coco and name != "coco":
        recipe = replace(recipe, train_split="train", test_split="val")
    return recipe


def choose_recipe(
    network: str,
    data: str,
    recipe: str | DetectionRecipe,
    steps: int | None,
    changes: dict[str, Any],
) -> tuple[DetectionRecipe, DetectionRecipe]:
    """The usual recipe, and the one with changes; the drops are in proportion to `steps`. Raises
    ValueError for an unknown network, recipe or field, and for an impossible value."""
    if isinstance(recipe, str):
        usual = recipe_for(network, data, recipe)
    else:
        usual = replace(recipe, network=model_spec(network).name)
    usual = usual if steps is None else with_steps(usual, steps)
    chosen = changed(usual, check_changes(usual, changes))
    return replace(usual, train_split=chosen.train_split, test_split=chosen.test_split), chosen


def with_splits(recipe: DetectionRecipe, data: str, chosen: Collection[str]) -> DetectionRecipe:
    """The recipe with the data's own names of splits, except in the fields that the user chose.
    Raises ValueError if the names do not tell which split is which."""
    if {"train_split", "test_split"} <= set(chosen):
        return recipe
    train, test = datasets.choose_splits(Path(data), recipe.train_split, recipe.test_split)
    splits: dict[str, Any] = {"train_split": train, "test_split": test}
    return replace(recipe, **{name: splits[name] for name in splits if name not in chosen})


def load_data(
    recipe: DetectionRecipe,
    source: dict[str, str],
    workers: int = 0,
    progress: Progress = no_progress,
    classes: tuple[str, ...] | None = None,
) -> DetectionData:
    """The splits of a recipe. The classes are those of a run that is resumed, or of the training
    split."""
    path = Path(source["where"])
    train = datasets.load(path, recipe.train_split, classes, recipe.reading)
    if not train.examples:
        raise ValueError(f"{train.name} holds no pictures")
    if not datasets.has_objects(train.examples):
        raise ValueError(f"{train.name} holds no objects{datasets.UNLEARNED}")
    if train.format == "coco":
        check_pycocotools()  # not only after the training
    test = datasets.load(path, recipe.test_split, train.classes, recipe.reading)
    return DetectionData(train, test)


def notices(recipe: DetectionRecipe, usual: DetectionRecipe, data: DetectionData) -> list[str]:
    """Sentences that the user should know about the data, before a training."""
    sentences = []
    splits = [(recipe.train_split, data.train), (recipe.test_split, data.test)]
    if [name for name, _ in splits] != [usual.train_split, usual.test_split]:
        train, test = (f"{name} ({len(split.examples):,} pictures)" for name, split in splits)
        sentences.append(f"{train} is learned from, and {test} is tested on")
    if not datasets.has_objects(data.test.examples):
        sentences.append(
            f"{recipe.test_split} holds no objects to be tested on, so there will be no average "
            "precision; --set test_split=... takes another split"
        )
    side, least = median_side(data.train, recipe), min(recipe.scales)
    if side < least / 2:
        sentences.append(
            f"half of the objects are less than {side:.0f} pixels wide and high, and the smallest "
            f"anchors have {least}: say --set scales=... with smaller ones"
        )
    for split in (data.train, data.test):
        sentences += [f"{sentence}; it is left out" for sentence in split.skipped]
        sentences += split.notices
    return sentences


def complete_recipe(
    recipe: DetectionRecipe, config: ComputeConfig, weights: Trained | None
) -> DetectionRecipe:
    """The recipe with the digest of its initial weights. Raises ValueError for a recipe that cannot
    be trained here and for weights of another network, and NonFiniteValues."""
    if weights is not None:
        recipe = from_weights(recipe, weights)
    check(recipe, config)
    return recipe


def check(recipe: DetectionRecipe, config: ComputeConfig) -> None:
    """Raises ValueError for a recipe that cannot be trained here."""
    check_network(recipe.network)
    has_norm = model_spec(recipe.network).family != "baseline"
    if has_norm and recipe.norm == "frozen" and not recipe.start:
        raise ValueError(
            "frozen batch normalization needs the statistics of pretrained weights; name them "
            "with --weights, or train from scratch: norm=group and fixed=0, as in --recipe scratch"
        )
    unusable = recipe.drops or recipe.warmup[0] or recipe.steps < 6
    if recipe.schedule == "alternating" and unusable:
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
            f"background must be below 0.5, the IoU from which a region is an object, not "
            f"{recipe.background}"
        )
    if recipe.batch % config.processes:
        raise ValueError(
            f"{config.processes} processes cannot share a batch of {recipe.batch} pictures "
            f"equally; say --set batch={config.processes}, which is another recipe"
        )
    if recipe.fixed and not recipe.start:
        raise ValueError(
            "stages that do not learn need weights to begin with; name them with --weights, or say "
            "--set fixed=0"
        )
    device = torch.device(config.device).type
    if config.deterministic and device != "cpu" and recipe.pooling == "pool":
        raise ValueError(
            f"RoI pooling has no deterministic kernel on {device}; say --set pooling=align, or "
            f"leave out --deterministic"
        )


def check_effects(
    recipe: DetectionRecipe, usual: DetectionRecipe, data: DetectionData | None = None
) -> None:
    """Raises ValueError for a field that was set and has no effect, whatever the data."""
    drops = recipe.schedule == "alternating" or any(d < recipe.steps for d in recipe.drops)
    has_norm = model_spec(recipe.network).family != "baseline"
    effects = {
        "drops": (drops, f"the rate drops within the {recipe.steps:,} steps"),
        "factor": (drops, "the rate never drops by it"),
        "norm": (has_norm, f"{recipe.network} has no batch normalization to replace"),
    }
    check_effect(recipe, usual, effects)


def begin(
    run: Path | None,
    recipe: DetectionRecipe,
    data: DetectionData,
    source: dict[str, str],
    config: ComputeConfig,
    weights: Trained | None = None,
) -> Path:
    """Make the folder of a run, by default runs/<network>-<n>. `source` is the location of the
    data: `where` and `root`."""
    if config.precision == "auto":
        config = replace(config, precision="float32")
    values = environment(data, source, config)
    if isinstance(weights, TrainedDetector):
        values["before"] = weights.annotations

    def save_initial(run: Path) -> None:
        if weights is not None:
            save_weights(run, recipe, data, weights)

    # Which images are in which part of a split that was divided once.
    splits = {recipe.train_split: data.train, recipe.test_split: data.test}
    divided = {
        name: [example.name for example in split.examples]
        for name, split in splits.items()
        if ":" in name
    }
    return folder.create(run, to_json(recipe), data.train.classes, values, divided, save_initial)


def save_weights(run: Path, recipe: DetectionRecipe, data: DetectionData, weights: Trained) -> None:
    """Save initial weights as the checkpoint of step 0."""
    net = session.fresh(recipe.seed, lambda: build(recipe, len(data.train.classes)))
    net.load_state_dict(transferable(weights, net), strict=False)
    view, side = weights.preprocessing.with_channel_mean(), recipe.shorter
    preprocessing = Preprocessing(view.mean, view.std, (side, side), side)
    content = session.start_with(recipe, data.train.classes, net, preprocessing)
    if recipe.schedule == "alternating":
        checkpoint.save(run / INITIAL, *content)
    folder.save(run, *content)


def transferable(weights: Trained, net: FasterRCNN) -> dict[str, Tensor]:
    """The weights that a detector takes over: of a classifier all but its last layer; of another
    detector those that do not depend on the classes and have the same shape."""
    state = weights.net.state_dict()
    if not isinstance(weights, TrainedDetector):
        return backbone_weights(state, net)
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    last = ("score.", "shift.")
    return {k: t for k, t in state.items() if not k.startswith(last) and t.shape == shapes[k]}


def from_weights(recipe: DetectionRecipe, weights: Trained) -> DetectionRecipe:
    """The recipe of a training from initial weights. Raises ValueError for weights of another
    network, and NonFiniteValues."""
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
    check_finite(state, "these initial weights cannot be used")
    return replace(recipe, start=checkpoint.weights_sha256(state))


def advance(run: Path, data: DetectionData, options: RunOptions) -> Iterator[Event]:
    """Take the steps that remain of a run; see `runs.session.advance`."""
    return session.advance(run, data, options, read_recipe, Detection)
