"""Loads a trained classifier from a run or a file, and saves one to a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from residual.models.registry import build, build_meta, classifier_parameters, model_spec
from residual.runs import folder
from residual.runs.load import Trained, read, stated_error
from residual.storage import damage_errors
from residual.tasks.classification.recipe import ClassificationRecipe, from_json
from residual.training import checkpoint
from residual.training.checkpoint import Tensors
from residual.training.recipe import to_json


def read_recipe(run: Path) -> ClassificationRecipe:
    """The recipe of a run. Raises NoRun for a folder without one, and for a detector's run."""
    values = folder.recipe_values(run)
    if values.get("task") == "detection":
        raise folder.NoRun(f"{run} is the run of a detector; see: residual detect --help")
    with damage_errors(run / "recipe.json"):
        return from_json(values)


def load(path: Path | str, *, body: bool = False) -> Trained:
    """Load the newest whole checkpoint of a run, or a file of weights. Only with `body=True` may
    the weights lack the last layer.

    Raises FileNotFoundError and ValueError, in a sentence, for anything else.
    """
    path = Path(path)
    if path.is_dir():
        read_recipe(path)
    tensors, header, notices = read(path)
    with damage_errors(path):
        trained = from_checkpoint(tensors, header, notices)
    if trained.body and not body:
        raise ValueError(
            f"{path} holds {trained.network} without its last layer and cannot "
            f"classify: train it first, with --weights {path}"
        )
    return replace(trained, error=stated_error(path, trained.source))


def save(trained: Trained, path: Path, extra: dict[str, Any]) -> None:
    """Write a trained classifier as a file of weights, with extra fields in its header."""
    tensors = {f"net.{name}": tensor for name, tensor in trained.net.state_dict().items()}
    header = {
        "network": trained.network,
        "classes": list(trained.classes) if trained.classes else None,
        "recipe": to_json(trained.recipe) if trained.recipe else None,
        "step": trained.step,
    }
    content = checkpoint.with_preprocessing(tensors, header | extra, trained.preprocessing)
    checkpoint.save(path, *content)


def from_checkpoint(tensors: Tensors, header: dict[str, Any], notices: tuple[str, ...]) -> Trained:
    """The network of a checkpoint. Raises ValueError where the weights do not fit it."""
    network, classes, body = header["network"], header["classes"], header.get("body", False)
    if model_spec(network).depth > len(tensors):
        raise ValueError(f"the weights do not fit the network: {network} has more layers")
    if body:
        shapes = build_meta(network).state_dict()
        last = {name: torch.zeros(shapes[name].shape) for name in classifier_parameters(network)}
        tensors = tensors | {f"net.{name}": tensor for name, tensor in last.items()}
    *_, bias = build_meta(network).state_dict()
    outputs = len(classes) if classes else len(tensors[f"net.{bias}"])
    check_shapes(tensors, network, outputs)
    net = build(network, outputs)
    checkpoint.load_weights(net, tensors)
    return Trained(
        net=net.eval(),
        network=network,
        classes=None if classes is None else tuple(classes),
        preprocessing=checkpoint.preprocessing_of(tensors, header),
        recipe=from_json(header["recipe"]) if header.get("recipe") else None,
        step=header.get("step"),
        source=header.get("source"),
        notices=notices,
        body=body,
    )


def check_shapes(tensors: Tensors, network: str, classes: int) -> None:
    """Raises ValueError where weights do not fit a network, before it is built: its name, or the
    number of classes, may ask for any amount of memory."""
    for name, expected in build_meta(network, classes).state_dict().items():
        tensor = tensors.get(f"net.{name}")
        if tensor is None or tensor.shape != expected.shape:
            shape = "none" if tensor is None else str(tuple(tensor.shape))
            raise ValueError(
                f"the weights do not fit the network: {name} is {tuple(expected.shape)} in "
                f"{network} of {classes:,} classes, and here is {shape}"
            )
