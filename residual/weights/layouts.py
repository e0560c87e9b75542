"""How other libraries name and order the parts of the paper's networks."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from residual.models.resnet import ROWS, ModelSpec
from residual.weights import caffe, published
from residual.weights.entries import few
from residual.weights.published import Card

OUTSIDE = {"conv1": "conv1.0.0", "bn1": "conv1.0.1"}  # what is in no block


def torch_name(key: str, projection: str, head: str) -> str | None:
    """Our name for a key of a library that has layer1, layer2, ... of blocks of conv1, bn1, ..."""
    inside = re.fullmatch(rf"layer(\d)\.(\d+)\.(conv|bn|{projection}\.)(\d)\.(\w+)", key)
    if inside:
        stage, block, part, number, what = inside.groups()
        place = f"conv{int(stage) + 1}_x.{block}"
        if part in ("conv", "bn"):
            return f"{place}.branch.{2 * int(number) - 2}.{int(part == 'bn')}.{what}"
        return f"{place}.shortcut.{number}.{what}"
    module, _, what = key.rpartition(".")
    outside = OUTSIDE | {head: "fc"}
    return f"{outside[module]}.{what}" if module in outside else None


def transformers_name(key: str) -> str | None:
    """Our name for a key of Hugging Face's ResNet (transformers/models/resnet)."""
    match = re.fullmatch(
        r"(?:resnet\.)?(?:embedder\.embedder|"
        r"encoder\.stages\.([0-3])\.layers\.(\d+)\.(?:layer\.([0-2])|shortcut))"
        r"\.(convolution|normalization)\.(\w+)",
        key,
    )
    if match is None:
        return key.replace("classifier.1.", "fc.") if key.startswith("classifier.1.") else None
    stage, block, number, part, what = match.groups()
    norm = int(part == "normalization")
    if stage is None:
        return f"conv1.0.{norm}.{what}"
    place = f"conv{int(stage) + 2}_x.{block}"
    if number is None:
        return f"{place}.shortcut.{norm}.{what}"
    return f"{place}.branch.{2 * int(number)}.{norm}.{what}"


@dataclass(frozen=True)
class Layout:
    """A library's names, and what its weights are."""

    source: str
    name: Callable[[str], str | None]  # ours for one of its keys, None where it is none of them
    examples: str  # of networks that it has
    card: Card  # where nothing else is known
    variant: str = "v1.5"  # of its bottleneck nets; empty where there are both
    family: str = "imagenet"  # and shortcuts, as in ModelSpec
    options: str = "B"
    caffe: bool = False  # its arithmetic
    bgr: bool = False


LATER = "resnet50-v1.5, resnet101-v1.5 and resnet152-v1.5"
AUTHORS = "the authors' release"
LAYOUTS = (
    Layout(
        "torchvision or timm",
        partial(torch_name, projection="downsample", head="fc"),
        f"resnet18, resnet34, {LATER}",
        published.UNKNOWN,
    ),
    Layout(
        "akamaster/pytorch_resnet_cifar10",
        partial(torch_name, projection="shortcut", head="linear"),
        "resnet20, resnet32, ..., and resnet20-B, resnet32-B, ...",
        published.CIFAR,
        family="cifar",
        options="AB",
    ),
    Layout(
        "Hugging Face",
        transformers_name,
        f"resnet18, resnet34, resnet50, resnet101, resnet152, {LATER}",
        published.UNKNOWN,
        variant="",
    ),
    Layout(
        AUTHORS,
        caffe.caffe_name,
        "resnet50, resnet101 and resnet152",
        published.MSRA,
        variant="v1",
        caffe=True,
        bgr=True,
    ),
    # In the files of Detectron and detectron2, the last layer tells where weights come from. Their
    # configurations have the stride in the 1x1 layer "only for the original MSRA ResNet", and give
    # nets trained in Caffe2 torchvision's means and divisors, in the order blue, green, red.
    Layout(
        f"{AUTHORS} as Detectron has it",
        partial(caffe.detectron_name, head="fc1000"),
        "resnet50, resnet101 and resnet152",
        published.MSRA,
        variant="v1",
        caffe=True,
        bgr=True,
    ),
    Layout(
        "Caffe2 as Detectron has it",
        partial(caffe.detectron_name, head="pred|linear"),
        LATER,
        published.UNKNOWN,
        caffe=True,
        bgr=True,
    ),
    Layout(
        "torchvision as detectron2 has it",
        partial(caffe.detectron_name, head=r"stem\.fc"),
        f"resnet18, resnet34, {LATER}",
        published.UNKNOWN,
        caffe=True,
    ),
)


def recognised(keys: Iterable[str], spec: ModelSpec) -> Layout:
    """The layout that has most of these names. Raises ValueError where none has any."""
    keys = list(keys)
    known = [sum(layout.name(key) is not None for key in keys) for layout in LAYOUTS]
    most, _, place = max(
        (count, LAYOUTS[place].family == spec.family, -place) for place, count in enumerate(known)
    )
    if not most:
        raise ValueError(
            f"the keys ({few(keys)}) are not those of torchvision, timm, {LAYOUTS[1].source}, "
            f"Hugging Face, {AUTHORS}, Detectron or detectron2"
        )
    layout = LAYOUTS[-place]
    if layout.source != AUTHORS and layout.caffe and headless(map(layout.name, keys)):
        raise ValueError(
            "these weights have no classifier (no fc1000, pred or stem.fc): they are the body of a "
            "detector, and nothing else says where they come from"
        )
    return layout


def headless(names: Iterable[str | None]) -> bool:
    """Whether weights, by our names, are those of a body, without the last layer."""
    return not any(name is not None and name.startswith("fc.") for name in names)


def check_variant(layout: Layout, spec: ModelSpec, card: Card | None, assume: str | None) -> None:
    """Refuse what the keys cannot show to be wrong. Raises ValueError."""
    if assume not in (None, "v1", "v1.5"):
        raise ValueError(f"one can assume v1 or v1.5, not {assume!r}")
    if spec.family != layout.family or spec.option not in layout.options:
        raise ValueError(
            f"these weights have the layout of {layout.source}, which has no {spec.name}; "
            f"it has {layout.examples}"
        )
    if spec.family == "cifar" or ROWS[spec.depth][1] == 1:
        return
    variant = assume or (card and card.variant) or layout.variant
    if not variant:
        raise ValueError(
            f"weights of {layout.source} are of the variant v1 or v1.5, as the config.json beside "
            f"them says, and here is none: assume the one that you know them to be"
        )
    if assume is None and spec.variant == "v1" and variant == "v1.5":
        raise ValueError(
            f"weights of {layout.source} are of the variant v1.5, which has the stride in the 3x3 "
            f"layer: convert them to {spec.name}-v1.5, or assume v1 where you know that they are"
        )
    if assume is None and spec.variant == "v1.5" and variant == "v1":
        raise ValueError(
            f"weights of {layout.source} are the paper's own, with the stride in the first 1x1 "
            f"layer: convert them to resnet{spec.depth}"
        )
    if variant != spec.variant:
        right = f"resnet{spec.depth}" + "-v1.5" * (variant == "v1.5")
        raise ValueError(
            f"{spec.name} is the variant {spec.variant}; to assume {variant}, convert to {right}"
        )


def zeros_behind(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CIFAR network of option A with zeros on both sides, to compute the same with zeros behind.

    Where the channels double, theirs come to lie in the middle of the new ones, ours before them.
    So in each stage the channels that the shortcuts carry have another order, and all that reads or
    writes them follows; what lies between the two convolutions of a block does not.
    """
    orders = {2: torch.arange(16)}  # of a stage: which of their channels is our first, second, ...
    for stage, width in ((3, 32), (4, 64)):
        front = width // 4
        middle = orders[stage - 1] + front
        behind = torch.arange(width - front, width)
        orders[stage] = torch.cat([middle, torch.arange(front), behind])
    return {key: reordered(key, tensor, orders) for key, tensor in state.items()}


def reordered(key: str, tensor: Tensor, orders: dict[int, Tensor]) -> Tensor:
    """One tensor, by our name, with the shortcuts' channels in our order."""
    if key == "fc.weight":
        return tensor[:, orders[4]]
    inside = re.fullmatch(r"conv(\d)_x\.(\d+)\.branch\.(\d)\.\d\.\w+", key)
    if inside is None or tensor.ndim == 0:
        return tensor
    stage, block, part = map(int, inside.groups())
    if part == 2:  # the second convolution and its normalization write
        return tensor[orders[stage]]
    if tensor.ndim == 4:  # the first convolution reads
        return tensor[:, orders[stage if block else max(stage - 1, 2)]]
    return tensor
