"""Public weights of the compared networks: VGG of torchvision and of Caffe, GoogLeNet of Caffe."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from residual.models.registry import build_meta, model_spec
from residual.weights.convert import Conversion, Incomplete, named
from residual.weights.entries import Entry, entry, few
from residual.weights.published import MEAN, STD, Card

# The publications subtract the mean of each channel from pixels of 0 to 255, in BGR; their first
# convolutions are turned to RGB here.
VGG_CARD = Card(
    "the means are those of VGG's Caffe release",
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
)
GOOGLENET_CARD = Card(
    "the means are those of Caffe's bvlc_googlenet",
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
)
TORCHVISION_CARD = Card("the view of a picture is torchvision's usual one", mean=MEAN, std=STD)
INCEPTION = {  # Caffe's names of a module's layers, and ours
    "1x1": "1x1.0",
    "3x3_reduce": "3x3.0.0",
    "3x3": "3x3.1.0",
    "5x5_reduce": "5x5.0.0",
    "5x5": "5x5.1.0",
    "pool_proj": "pool.1.0",
}
OUTSIDE = {  # of GoogLeNet's other layers
    "conv1/7x7_s2": "conv1.0",
    "conv2/3x3_reduce": "conv2_reduce.0",
    "conv2/3x3": "conv2.0",
    "loss3/classifier": "fc",
}
HEADS = {"conv": "conv.0", "fc": "fc1", "classifier": "fc2"}
HAVE = "vgg16 and vgg19 (torchvision's and Caffe's weights) and googlenet (Caffe's)"


def convert(
    state: Mapping[str, Any], network: str, card: Card | None = None, wanted: str | None = None
) -> Conversion:
    """Weights from elsewhere for a compared network, under our names; of VGG also a body, without
    the last layer. `wanted` is the entry of a file that has several.

    Raises ValueError for a network of which none are known, and unless each of our weights is
    there, in as many numbers, and nothing else.
    """
    if not network.startswith(("vgg", "googlenet")):
        raise ValueError(f"no weights from elsewhere are known for {network}; there are for {HAVE}")
    theirs = entry(state, wanted)
    caffes = any(re.fullmatch(r".*/[01]", key) for key in theirs.state)
    if not caffes and network == "googlenet":
        raise ValueError(
            "torchvision's googlenet is another network (batch normalization, 3x3 in place of 5x5);"
            " the weights that fit are those of Caffe's bvlc_googlenet.caffemodel"
        )
    names = caffe_names(theirs.state) if caffes else torchvision_names(theirs, network)
    vgg = network.startswith("vgg")
    last = "fc8" if vgg else "fc"
    biases = [theirs.state[key] for key, own in names.items() if own == f"{last}.bias"]
    body = vgg and not biases
    classes = biases[0].numel() if biases else model_spec(network).classes
    shapes = build_meta(network, classes).state_dict()
    ours = {key: shapes[key] for key in shapes if not (body and key.startswith("fc8."))}
    found = checked(theirs.state, names, ours, network)
    if caffes:
        first = "conv1_1.0.weight" if vgg else "conv1.0.weight"
        found[first] = found[first].flip(1)
    usual = TORCHVISION_CARD if not caffes else VGG_CARD if vgg else GOOGLENET_CARD
    card = card or usual
    return Conversion(
        source="Caffe's model collection" if caffes else "torchvision",
        network=network,
        state=found,
        mapped=[(key, own) for key, own in names.items() if own is not None],
        card=replace(card, classes=None) if body else named(card, "imagenet", classes),
        notices=theirs.notices,
        body=body,
    )


def checked(
    theirs: Mapping[str, Any],
    names: Mapping[str, str | None],
    ours: Mapping[str, Tensor],
    network: str,
) -> dict[str, Tensor]:
    """Our state from theirs. Raises Incomplete, naming each key that is amiss."""
    filled = {own: key for key, own in names.items() if own in ours}
    unexpected = [key for key, own in names.items() if own not in ours]
    missing = [key for key in ours if key not in filled]
    misshapen = [
        f"{filled[own]} is {tuple(theirs[filled[own]].shape)} instead of {tuple(tensor.shape)}"
        for own, tensor in ours.items()
        if own in filled and theirs[filled[own]].numel() != tensor.numel()
    ]
    if missing or unexpected or misshapen:
        raise Incomplete(
            f"nothing is converted, for these are not the weights of {network}: missing: "
            f"{few(missing)}; unexpected: {few(unexpected)}; of another shape: {few(misshapen)}",
            [*(f"missing: {key}" for key in missing), *(f"unexpected: {key}" for key in unexpected)]
            + [f"of another shape: {words}" for words in misshapen],
        )
    # A fully-connected layer over a map is a convolution here: the same numbers in the same order.
    return {
        own: theirs[filled[own]].detach().reshape(tensor.shape).clone()
        for own, tensor in ours.items()
    }


def torchvision_names(theirs: Entry, network: str) -> dict[str, str | None]:
    """Ours for torchvision's, which are numbered in the order in which an image meets them."""
    own = build_meta(network).state_dict()
    numbered = {
        key: (match[1], int(match[2]), match[3] == "bias")
        for key, name in theirs.names.items()
        if (match := re.fullmatch(r"(features|classifier)\.(\d+)\.(weight|bias)", name))
    }
    in_order = sorted(numbered, key=lambda key: (numbered[key][0] == "classifier", numbered[key]))
    names: dict[str, str | None] = dict.fromkeys(theirs.state)
    return names | dict(zip(in_order, own, strict=False))


def caffe_names(theirs: Mapping[str, Any]) -> dict[str, str | None]:
    """Ours for `layer/blob`: blob 0 has the weights, and blob 1 the biases."""
    return {key: caffe_name(*key.rpartition("/")[::2]) for key in theirs}


def caffe_name(layer: str, number: str) -> str | None:
    what = {"0": "weight", "1": "bias"}.get(number)
    inside = re.fullmatch(r"inception_(\d[a-e])/(\w+)", layer)
    head = re.fullmatch(r"loss([12])/(\w+)", layer)
    if what is None:
        return None
    if layer in OUTSIDE:
        return f"{OUTSIDE[layer]}.{what}"
    if inside and inside[2] in INCEPTION:
        return f"inception{inside[1]}.{INCEPTION[inside[2]]}.{what}"
    if head and head[2] in HEADS:
        place = "inception4a" if head[1] == "1" else "inception4d"
        return f"heads.{place}.{HEADS[head[2]]}.{what}"
    if re.fullmatch(r"conv\d_\d|fc[67]", layer):
        return f"{layer}.0.{what}"
    return f"fc8.{what}" if layer == "fc8" else None
