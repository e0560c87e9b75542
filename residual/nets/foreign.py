"""Weights and networks of other libraries beside ours, checked key by key and layer by layer."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.nets.cost import Layer, layers, outline
from residual.nets.layouts import Layout, check_variant, few, recognised, zeros_behind
from residual.nets.networks import ROWS, specify

OPTIONAL = "num_batches_tracked"  # counts steps, and changes no answer
# What both libraries and the CIFAR nets subtract from and divide pixels in [0, 1] by.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Conversion:
    """Foreign weights under our names, with what an image must go through before it meets them."""

    source: str
    network: str
    state: dict[str, Tensor]
    mapped: list[tuple[str, str]]  # (their key, our key)
    missing: list[str]  # our keys
    unexpected: list[str]  # their keys
    classes: tuple[str, ...] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int]


class Incomplete(ValueError):
    """Weights that are not all there, or not only; `keys` has each in words."""

    def __init__(self, sentence: str, keys: list[str]) -> None:
        super().__init__(sentence)
        self.keys = keys


@dataclass(frozen=True)
class Pair:
    """A layer of another library's network, and ours in its place."""

    theirs: Layer
    ours: Layer

    @property
    def differs(self) -> bool:
        return any(
            getattr(self.theirs, what) != getattr(self.ours, what)
            for what in ("kind", "output", "parameters", "multiply_adds")
        )


def read(path: Path) -> dict[str, Any]:
    """The content of a .safetensors file or of a file by torch.save; no code in it is ever run.

    Raises FileNotFoundError, or ValueError where it is something else.
    """
    wanted = "weights are a .safetensors file or a state dict by torch.save"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {wanted}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {wanted}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings(action="ignore"):  # of old pickles, which concern no user
            content = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # anything may come of bytes that are no weights
        raise ValueError(
            f"{path} holds no weights that can be read without running code from it; {wanted}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; {wanted}")
    return content


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict itself, out of what a training script saved around it."""
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            return unwrapped(state[wrapper])
    return {str(key): value for key, value in state.items()}


def convert(state: Mapping[str, Any], network: str, assume: str | None = None) -> Conversion:
    """Weights of torchvision, timm or akamaster/pytorch_resnet_cifar10, for one of our networks.

    Their bottleneck nets are of the variant v1.5, which no key shows; `assume="v1"` says that these
    are not. Raises ValueError unless each of our weights is there, in its shape, and nothing else.
    """
    spec = specify(network)
    theirs = unwrapped(state)
    layout = recognised(theirs, spec)
    check_variant(layout, spec, assume)
    heads = [value for key, value in theirs.items() if layout.ours(key) == "fc.bias"]
    classes = heads[0].numel() if heads and isinstance(heads[0], Tensor) else spec.classes
    ours = outline(spec.name, classes).state_dict()
    found, unexpected, misshapen = matched(theirs, ours, layout)
    needed = [key for key in ours if OPTIONAL not in key]
    missing = [key for key in needed if key not in found and key not in misshapen]
    if missing or unexpected or misshapen:
        raise Incomplete(
            f"nothing is converted, for these are not the weights of {spec.name}: "
            f"{len(found)} keys mapped; missing: {few(missing)}; unexpected: {few(unexpected)}; "
            f"of another shape: {few(misshapen.values())}",
            [f"{their_key} -> {key}" for key, their_key in found.items()]
            + [f"missing: {key}" for key in missing]
            + [f"unexpected: {key}" for key in unexpected]
            + [f"of another shape: {words}" for words in misshapen.values()],
        )
    uncounted = torch.tensor(0)
    filled = {key: theirs[found[key]] if key in found else uncounted for key in ours}
    if spec.family == "cifar" and spec.option == "A":
        filled = zeros_behind(filled)
    return Conversion(
        source=layout.source,
        network=spec.name,
        state={key: tensor.detach().clone().contiguous() for key, tensor in filled.items()},
        mapped=[(their_key, key) for key, their_key in found.items()],
        missing=missing,
        unexpected=unexpected,
        classes=layout.class_names(classes),
        mean=MEAN,
        std=STD,
        size=layout.size,
    )


def matched(
    theirs: Mapping[str, Any], ours: Mapping[str, Tensor], layout: Layout
) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Which of their keys fill ours (our key: their key), those left over, and the wrong shapes."""
    found: dict[str, str] = {}
    unexpected: list[str] = []
    misshapen: dict[str, str] = {}
    for key, value in theirs.items():
        our_key = layout.ours(key)
        if our_key is None or our_key not in ours or our_key in found:
            unexpected.append(key)
        elif not isinstance(value, Tensor):
            misshapen[our_key] = f"{key} is a {type(value).__name__}"
        elif value.shape != ours[our_key].shape:
            right = tuple(ours[our_key].shape)
            misshapen[our_key] = f"{key} is {tuple(value.shape)} instead of {right}"
        else:
            found[our_key] = key
    return found, unexpected, misshapen


def difference(network: str, library: str = "torchvision") -> list[Pair]:
    """Each layer with weights and each pooling, theirs beside ours, in the order of execution.

    Raises ValueError for another library, or for a network that it does not have.
    """
    if library != "torchvision":
        raise ValueError(f"no comparison with {library!r}; there is one with torchvision")
    spec = specify(network)
    if spec.family != "imagenet" or spec.option != "B":
        have = ", ".join(f"resnet{depth}" for depth in ROWS)
        raise ValueError(f"torchvision has no network {spec.name!r}; it has {have}")
    import torchvision

    with torch.device("meta"):
        net = torchvision.models.get_model(f"resnet{spec.depth}")
    theirs, ours = (
        [
            layer
            for layer in layers(each, spec.input_size)
            if layer.parameters or "pool" in layer.kind
        ]
        for each in (net, outline(spec.name))
    )
    return [Pair(*pair) for pair in zip(theirs, ours, strict=True)]
