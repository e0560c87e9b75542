"""Weights and networks of other libraries beside ours, checked key by key and layer by layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.models.complexity import Layer, layers
from residual.models.registry import build_meta, model_spec
from residual.models.resnet import ROWS, ModelSpec
from residual.weights import caffe
from residual.weights.entries import Entry, entry, few
from residual.weights.layouts import (
    AUTHORS,
    Layout,
    check_variant,
    headless,
    recognised,
    zeros_behind,
)
from residual.weights.published import Card, class_names

OPTIONAL = "num_batches_tracked"  # counts steps, and changes no answer
# Deviation: our max pooling begins one pixel before the border, and the authors' weights were
# trained with Caffe's, which begins at the first pixel and rounds the size up. No weights make up
# for that: within a picture it is as if the picture were moved by two pixels, and at its border a
# few windows hold other pixels.
POOLING = (
    "Caffe's max pooling begins at the first pixel and ours one before it: within a picture it is "
    "as if the picture were moved by two pixels, and at its border a few windows differ"
)
MEANS = (
    "the means of the channels are subtracted in place of the authors' mean image; "
    "--mean ResNet_mean.binaryproto takes it"
)


@dataclass(frozen=True)
class Conversion:
    """Foreign weights under our names, with what an image must go through before it meets them."""

    source: str
    network: str
    state: dict[str, Tensor]
    mapped: list[tuple[str, str]]  # (their key, our key)
    card: Card
    notices: tuple[str, ...] = ()
    mean_image: Tensor | None = None  # (3, H, W), of pixels in [0, 1], in place of the card's means
    body: bool = False  # without the last layer

    @property
    def mean(self) -> Tensor:
        """What is subtracted: (3, 1, 1), or a mean image (3, H, W)."""
        if self.mean_image is not None:
            return self.mean_image
        return torch.tensor(self.card.mean).view(3, 1, 1)

    def seen(self, size: int | None, shorter: int | None) -> "Conversion":
        """With another size or shorter side of pictures. Raises ValueError."""
        return replace(self, card=self.card.with_view(size, shorter))

    def less(self, mean_image: Path) -> "Conversion":
        """With the mean image of a .binaryproto in place of the means. Raises ValueError."""
        if not self.source.startswith(AUTHORS):
            raise ValueError(f"a mean image belongs to {AUTHORS}, and these are of {self.source}")
        mean = caffe.read_mean(mean_image).flip(0) / 255
        if mean.shape[1:] != self.card.size:
            high, wide = mean.shape[1:]
            raise ValueError(
                f"{mean_image} holds a mean image of {high}x{wide} pixels, and a picture has "
                f"{self.card.size[0]}x{self.card.size[1]}"
            )
        notices = tuple(notice for notice in self.notices if notice != MEANS)
        return replace(self, mean_image=mean, notices=notices)


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


def convert(
    state: Mapping[str, Any],
    network: str,
    assume: str | None = None,
    card: Card | None = None,
    wanted: str | None = None,
) -> Conversion:
    """Weights of one of the sources in layouts.py, for one of our networks.

    Bottleneck nets are of the variant v1.5 in most libraries, which no key shows; `assume="v1"`
    says that these are not. `card` is what is known of the file that they are from, and `wanted`
    the entry in it, where it has several. Weights without a last layer are a body, to begin a
    training with. Raises ValueError unless each of our weights is there, in its shape, and nothing
    else.
    """
    spec = model_spec(network)
    theirs = entry(state, wanted)
    layout = recognised(theirs.names.values(), spec)
    check_variant(layout, spec, card, assume)
    heads = [
        theirs.state[key] for key, name in theirs.names.items() if layout.name(name) == "fc.bias"
    ]
    classes = heads[0].numel() if heads and isinstance(heads[0], Tensor) else spec.classes
    body = headless(map(layout.name, theirs.names.values()))
    card = card or layout.card
    card = replace(card, classes=None) if body else named(card, spec.family, classes)
    ours = {key: tensor for key, tensor in build_meta(spec.name, classes).state_dict().items()
            if not (body and key.startswith("fc."))}  # fmt: skip
    found = complete(theirs, {key: tensor.shape for key, tensor in ours.items()}, layout, spec)
    filled = {key: theirs.state[their_key] for key, their_key in found.items()}
    if layout.caffe:
        filled = caffe.settled(filled, layout.bgr)
    if spec.family == "cifar" and spec.option == "A":
        filled = zeros_behind(filled)
    uncounted = torch.tensor(0)
    notices = (MEANS, POOLING) if layout.source.startswith(AUTHORS) else ()
    return Conversion(
        source=layout.source,
        network=spec.name,
        state={key: filled.get(key, uncounted).detach().clone().contiguous() for key in ours},
        mapped=[(their_key, key) for key, their_key in found.items()],
        card=card,
        notices=(*theirs.notices, *notices),
        body=body,
    )


def named(card: Card, family: str, classes: int) -> Card:
    """The card with the names of the classes. Raises ValueError where it names too few or many."""
    if card.classes is None:
        return replace(card, classes=class_names(family, classes))
    if len(card.classes) != classes:
        raise ValueError(
            f"{card.says}, and it names {len(card.classes):,} classes where the weights have "
            f"{classes:,}"
        )
    return card


def complete(
    theirs: Entry, ours: Mapping[str, torch.Size], layout: Layout, spec: ModelSpec
) -> dict[str, str]:
    """Which of their keys fill ours (our key: their key). Raises Incomplete, naming every key."""
    shapes = {**ours, **(caffe.expected(ours) if layout.caffe else {})}
    found, unexpected, misshapen = matched(theirs, shapes, layout)
    folded = layout.caffe and not any("running_" in key for key in found)
    optional = (OPTIONAL, "running_") if folded else (OPTIONAL,)
    needed = [key for key in ours if not any(part in key for part in optional)]
    missing = [key for key in needed if key not in found and key not in misshapen]
    if not (missing or unexpected or misshapen):
        return found
    depth = depth_of(layout.name(name) or "" for name in theirs.names.values())
    raise Incomplete(
        f"nothing is converted, for these are not the weights of {spec.name}"
        + (
            f" but look like those of a network of {depth} layers"
            if depth not in (None, spec.depth)
            else ""
        )
        + f": {len(found)} keys mapped; missing: {few(missing)}; unexpected: {few(unexpected)}; "
        f"of another shape: {few(misshapen.values())}",
        [f"{their_key} -> {key}" for key, their_key in found.items()]
        + [f"missing: {key}" for key in missing]
        + [f"unexpected: {key}" for key in unexpected]
        + [f"of another shape: {words}" for words in misshapen.values()],
    )


def depth_of(keys: Iterable[str]) -> int | None:
    """The depth of the network that has such keys, by our names for them; None where none has."""
    blocks: dict[str, set[str]] = {}
    bottleneck = False
    for key in keys:
        stage, _, rest = key.partition(".")
        if stage.endswith("_x"):
            blocks.setdefault(stage, set()).add(rest.partition(".")[0])
            bottleneck |= ".branch.4." in key
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    if len(counts) == 3 and len(set(counts)) == 1:
        return 6 * counts[0] + 2
    rows = ((depth, (widens > 1, *row)) for depth, (_, widens, row) in ROWS.items())
    return next((depth for depth, row in rows if row == (bottleneck, *counts)), None)


def matched(
    theirs: Entry, shapes: Mapping[str, torch.Size], layout: Layout
) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Which of their keys fill ours (our key: their key), those left over, and the wrong shapes."""
    found: dict[str, str] = {}
    unexpected: list[str] = []
    misshapen: dict[str, str] = {}
    for key, value in theirs.state.items():
        our_key = layout.name(theirs.names[key])
        if our_key is None or our_key not in shapes or our_key in found:
            unexpected.append(key)
        elif not isinstance(value, Tensor):
            misshapen[our_key] = f"{key} is a {type(value).__name__}"
        elif value.shape != shapes[our_key]:
            right = tuple(shapes[our_key])
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
    spec = model_spec(network)
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
        for each in (net, build_meta(spec.name))
    )
    return [Pair(*pair) for pair in zip(theirs, ours, strict=True)]
