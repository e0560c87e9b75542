"""The verb `load`: a trained network with its classes and its preprocessing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from residual.data.preprocessing import Preprocessing
from residual.device import ComputeConfig
from residual.models.registry import build, build_meta, classifier_parameters, model_spec
from residual.runs import folder
from residual.storage import damage_errors
from residual.training import checkpoint
from residual.training.recipe import Recipe, from_json


@dataclass(frozen=True)
class Trained:
    """A network with all that its use needs."""

    net: nn.Module  # in evaluation mode
    network: str  # its name
    classes: tuple[str, ...] | None  # None where foreign weights came without names
    preprocessing: Preprocessing
    recipe: Recipe | None  # None for foreign weights
    step: int | None
    source: str | None = None  # of weights from elsewhere
    notices: tuple[str, ...] = ()  # a sentence for each newer checkpoint that is damaged
    body: bool = False  # without the weights of its last layer, in place of which there are zeros

    def placed(self, how: ComputeConfig) -> "Trained":
        """The same, on a device."""
        how.prepare(self.net)
        return self


def load(path: Path | str, *, body: bool = False) -> Trained:
    """A run, as its newest whole checkpoint has it, or a file of weights. A body, which lacks its
    last layer and so tells no classes apart, is taken with `body=True` alone.

    Raises FileNotFoundError and ValueError, in a sentence, for what is neither.
    """
    path = Path(path)
    if path.is_dir():
        folder.recipe_of(path)
        found = folder.newest(path)
        if found is None:
            raise ValueError(f"{path} has no checkpoint yet; go on with: residual resume {path}")
        tensors, header, complaints = found
    else:
        complaints = []
        tensors, header = read_network(path)
    with damage_errors(path):
        net = trained(tensors, header)
    if net.body and not body:
        raise ValueError(
            f"{path} holds the body of {net.network}, without a last layer, and tells no classes "
            f"apart: train it first, with --weights {path}"
        )
    return replace(net, notices=tuple(complaints))


def read_network(path: Path) -> tuple[checkpoint.Tensors, dict[str, Any]]:
    """A checkpoint that holds a network. Raises ValueError for one of ours that holds none, like
    the proposals of a detector's training, and what `checkpoint.read` raises."""
    tensors, header = checkpoint.read(path)
    if not {"network", "classes", "size"} <= header.keys():
        raise ValueError(f"{path} holds no network; name a run, or a file in its checkpoints/")
    return tensors, header


def trained(tensors: checkpoint.Tensors, header: dict[str, Any]) -> Trained:
    """What the content of a checkpoint is. Raises ValueError where the parts do not fit."""
    classes, body = header["classes"], header.get("body", False)
    if model_spec(header["network"]).depth > len(tensors):
        raise ValueError(f"the weights do not fit the network: {header['network']} has more layers")
    if body:
        shapes = build_meta(header["network"]).state_dict()
        names = classifier_parameters(header["network"])
        last = {name: torch.zeros(shapes[name].shape) for name in names}
        tensors = tensors | {f"net.{name}": tensor for name, tensor in last.items()}
    scores = len(classes) if classes else scores_of(tensors, header)
    check_shapes(tensors, header["network"], scores)
    net = build(header["network"], scores)
    checkpoint.load_weights(net, tensors)
    return Trained(
        net=net.eval(),
        network=header["network"],
        classes=None if classes is None else tuple(classes),
        preprocessing=preprocessing_of(tensors, header),
        recipe=from_json(header["recipe"]) if header.get("recipe") else None,
        step=header.get("step"),
        source=header.get("source"),
        body=body,
    )


def check_shapes(tensors: checkpoint.Tensors, network: str, classes: int) -> None:
    """Raises ValueError where weights are not those of a network, before it is made: its name, or
    the number of classes, may ask for any amount of memory."""
    for name, tensor in build_meta(network, classes).state_dict().items():
        own = tensors.get(f"net.{name}")
        if own is None or own.shape != tensor.shape:
            has = "none" if own is None else str(tuple(own.shape))
            raise ValueError(
                f"the weights do not fit the network: {name} is {tuple(tensor.shape)} in {network} "
                f"of {classes:,} classes, and here is {has}"
            )


def scores_of(tensors: checkpoint.Tensors, header: dict[str, Any]) -> int:
    """How many classes weights without names tell apart."""
    *_, last = build_meta(header["network"]).state_dict()
    return len(tensors[f"net.{last}"])


def preprocessing_of(tensors: checkpoint.Tensors, header: dict[str, Any]) -> Preprocessing:
    """The part of a checkpoint that says how an image becomes an input."""
    height, width = header["size"]
    sides = [height, width, header.get("shorter") or 1]
    if not all(type(side) is int and 0 < side < 2**15 for side in sides):
        raise ValueError(f"a picture's sides are pixels, not {sides}")
    mean, std = tensors["preprocessing.mean"], tensors["preprocessing.std"]
    whitening = tensors.get("preprocessing.whitening")
    contrast = header.get("contrast", False)
    return Preprocessing(mean, std, (height, width), header.get("shorter"), contrast, whitening)


def with_preprocessing(
    tensors: checkpoint.Tensors, header: dict[str, Any], own: Preprocessing
) -> tuple[checkpoint.Tensors, dict[str, Any]]:
    """The content of a checkpoint, with that part."""
    parts = {"mean": own.mean, "std": own.std, "whitening": own.whitening}
    there = {f"preprocessing.{k}": tensor for k, tensor in parts.items() if tensor is not None}
    said = {"size": list(own.size), "shorter": own.shorter, "contrast": own.contrast}
    return tensors | there, header | said
