"""How other libraries name and order the parts of the paper's networks."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from residual.nets.networks import ROWS, Spec

PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")  # of networks that were parallel or compiled
OUTSIDE = {"conv1": "conv1.0.0", "bn1": "conv1.0.1"}  # what is in no block
CIFAR_10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


@dataclass(frozen=True)
class Layout:
    """A library's names. The stages are layer1, layer2, ... in all, their parts conv1, bn1, ..."""

    source: str
    family: str  # the networks it has, as in Spec
    options: str  # and their shortcuts
    projection: str  # its name for the projection shortcut
    head: str  # its name for the fully-connected layer
    size: tuple[int, int]  # of the images that its weights were trained on
    examples: str

    def ours(self, key: str) -> str | None:
        """Our name for one of its keys, None where it is none of them."""
        key = PREFIX.sub("", key)
        inside = re.fullmatch(rf"layer(\d)\.(\d+)\.(conv|bn|{self.projection}\.)(\d)\.(\w+)", key)
        if inside:
            stage, block, part, number, what = inside.groups()
            place = f"conv{int(stage) + 1}_x.{block}"
            if part in ("conv", "bn"):
                return f"{place}.branch.{2 * int(number) - 2}.{int(part == 'bn')}.{what}"
            return f"{place}.shortcut.{number}.{what}"
        module, _, what = key.rpartition(".")
        outside = OUTSIDE | {self.head: "fc"}
        return f"{outside[module]}.{what}" if module in outside else None

    def class_names(self, classes: int) -> tuple[str, ...] | None:
        """The classes its weights were trained on, where so many say which they are."""
        if self.family == "cifar":
            return CIFAR_10 if classes == len(CIFAR_10) else None
        from torchvision.models import ResNet50_Weights

        names = tuple(ResNet50_Weights.DEFAULT.meta["categories"])
        return names if classes == len(names) else None


LAYOUTS = (
    Layout(
        *("torchvision or timm", "imagenet", "B", "downsample", "fc", (224, 224)),
        "resnet18, resnet34, resnet50-v1.5, resnet101-v1.5 and resnet152-v1.5",
    ),
    Layout(
        *("akamaster/pytorch_resnet_cifar10", "cifar", "AB", "shortcut", "linear", (32, 32)),
        "resnet20, resnet32, ..., and resnet20-B, resnet32-B, ...",
    ),
)


def recognised(keys: Iterable[str], spec: Spec) -> Layout:
    """The layout that has most of these names. Raises ValueError where none has any."""
    known = {layout: sum(layout.ours(key) is not None for key in keys) for layout in LAYOUTS}
    best = max(LAYOUTS, key=lambda layout: (known[layout], layout.family == spec.family))
    if not known[best]:
        raise ValueError(
            f"the keys ({few(keys)}) are not those of {' or '.join(one.source for one in LAYOUTS)}"
        )
    return best


def few(names: Iterable[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most]) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def check_variant(layout: Layout, spec: Spec, assume: str | None) -> None:
    """Refuse what the keys cannot show to be wrong. Raises ValueError."""
    if assume not in (None, "v1"):
        raise ValueError(f"one can assume v1, not {assume!r}")
    if spec.family != layout.family or spec.option not in layout.options:
        raise ValueError(
            f"these weights have the layout of {layout.source}, which has no {spec.name}; "
            f"it has {layout.examples}"
        )
    if spec.family == "cifar" or ROWS[spec.depth][1] == 1:
        return
    if spec.variant == "v1" and assume != "v1":
        raise ValueError(
            f"weights of {layout.source} are of the variant v1.5, which has the stride in the 3x3 "
            f"layer: convert them to {spec.name}-v1.5, or assume v1 where you know that they are"
        )
    if spec.variant == "v1.5" and assume == "v1":
        raise ValueError(
            f"{spec.name} is the variant v1.5; to assume v1, convert to resnet{spec.depth}"
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
