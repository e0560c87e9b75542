"""Translates parameter names and channel orders of other libraries to residual's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from residual.models.baselines.inception import GOOGLENET as MODULES
from residual.models.registry import build_meta
from residual.models.resnet import ROWS, ModelSpec
from residual.storage import summarize
from residual.weights import published
from residual.weights.published import CIFAR, MSRA, UNKNOWN, PretrainedConfig

AUTHORS = "the authors' release"
FROM_AUTHORS = f"{AUTHORS} as Detectron has it"
V1 = "resnet50, resnet101 and resnet152"
V1_5 = "resnet50-v1.5, resnet101-v1.5 and resnet152-v1.5"

# Patterns of keys have the groups stage, block, layer (of the branch; absent in a shortcut), norm
# (absent or 0 in a convolution), head (the last layer), and tensor (weight, bias, ... or one of
# these abbreviations). Caffe's BatchNorm only normalizes, and its third blob divides the other two;
# a Scale layer after it learns gamma and beta (the authors' README).
ABBREVIATIONS = {
    **{"w": "weight", "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias"},
    **{"rm": "running_mean", "riv": "running_var"},  # a variance, not its inverse
    **{"/0": "weight", "/1": "bias"},
    **{"bn/0": "running_mean", "bn/1": "running_var", "bn/2": "factor"},
}


def torch_patterns(shortcut: str, head: str) -> tuple[str, ...]:
    """Patterns of libraries with layer1, layer2, ... of blocks with conv1, bn1, ..."""
    block, tensor = r"layer(?P<stage>\d)\.(?P<block>\d+)\.", r"\.(?P<tensor>\w\w+)"
    return (
        block + r"(?:conv|(?P<norm>bn))(?P<layer>\d)" + tensor,
        block + rf"{shortcut}\.(?P<norm>[01])" + tensor,
        r"(?:conv|(?P<norm>bn))1" + tensor,
        rf"(?P<head>{head})" + tensor,
    )


def transformers_patterns() -> tuple[str, ...]:
    """Patterns of Hugging Face's ResNet."""
    block = r"encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\."
    unit = r"\.(?:convolution|(?P<norm>normalization))\.(?P<tensor>\w\w+)"
    return (
        block + r"(?:layer\.(?P<layer>\d)|shortcut)" + unit,
        r"embedder\.embedder" + unit,
        r"(?P<head>classifier\.1)\.(?P<tensor>\w\w+)",
    )


def caffe_patterns() -> tuple[str, ...]:
    """Patterns of `layer/blob` in the authors' release, e.g. res4b7_branch2a/0 or bn_conv1/1."""
    block = r"(?P<stage>[2-5])(?P<block>[a-z]\d*)_branch(?:1|2(?P<layer>[abc]))"
    return (
        rf"(?:res|(?P<norm>scale)){block}(?P<tensor>/[01])",
        rf"(?P<norm>bn){block}(?P<tensor>/[012])",
        r"(?:(?P<norm>scale)_)?conv1(?P<tensor>/[01])",
        r"(?P<norm>bn)_conv1(?P<tensor>/[012])",
        r"(?P<head>fc\w*)(?P<tensor>/[01])",
    )


def detectron_patterns(head: str) -> tuple[str, ...]:
    """Patterns of Detectron (Caffe2) and detectron2, if the last layer has this name."""
    caffe2 = r"(?P<norm>_bn)?_(?P<tensor>w|b|s|gamma|beta|rm|riv|running_mean|running_var)"
    prefix, unit = r"(?:backbone\.)?(?:bottom_up\.)?", r"(?P<norm>\.norm)?\.(?P<tensor>\w\w+)"
    block = r"res(?P<stage>[2-5])\.(?P<block>\d+)\.(?:conv(?P<layer>[123])|shortcut)"
    return (
        r"res(?P<stage>[2-5])_(?P<block>\d+)_branch(?:1|2(?P<layer>[abc]))" + caffe2,
        r"(?:res_)?conv1" + caffe2,
        rf"(?P<head>{head})" + caffe2,
        *(prefix + place + unit for place in (block, r"stem\.conv1", rf"(?P<head>{head})")),
    )


@dataclass(frozen=True)
class Layout:
    """The keys of a library's weights, and the network and preprocessing that they expect."""

    source: str
    keys: tuple[str, ...] | dict[str, str]  # patterns, or residual's names by key
    config: PretrainedConfig  # if the file has none
    variant: str = "v1.5"  # of its bottleneck nets; empty if it has both
    stage: int = 2  # its number of conv2_x
    layer: int = 1  # its number of a block's first convolution
    family: str = "imagenet"  # and shortcut options, as in ModelSpec
    options: str = "B"
    networks: str = f"resnet18, resnet34, {V1_5}"  # that it has, for messages
    head: str = "fc"  # the last layer of residual's network
    caffe_norm: bool = False  # normalization as in Caffe
    bgr: bool = False

    def name(self, key: str) -> str | None:
        """Residual's name for one of the library's keys; None for any other key."""
        if isinstance(self.keys, dict):
            return self.keys.get(key)
        match = next(filter(None, (re.fullmatch(pattern, key) for pattern in self.keys)), None)
        if match is None:
            return None
        parts = match.groupdict()
        tensor, norm = parts["tensor"], parts.get("norm")
        tensor = ABBREVIATIONS.get(f"bn{tensor}" if norm == "bn" else tensor, tensor)
        if "head" in parts:
            return f"fc.{tensor}"
        norm = int(norm not in (None, "0"))
        if "stage" not in parts:
            return f"conv1.0.{norm}.{tensor}"
        block = parts["block"]
        if block[0].isalpha():  # Caffe's blocks are a, b, c, ... or, in deeper nets, a, b1, b2, ...
            block = block[1:] or str(ord(block[0]) - ord("a"))
        place = f"conv{int(parts['stage']) - self.stage + 2}_x.{block}"
        if not (layer := parts.get("layer")):
            return f"{place}.shortcut.{norm}.{tensor}"
        index = int(layer) - self.layer if layer.isdigit() else "abc".index(layer)
        return f"{place}.branch.{2 * index}.{norm}.{tensor}"


caffe_layout = partial(Layout, caffe_norm=True)
LAYOUTS = (
    Layout("torchvision or timm", torch_patterns("downsample", "fc"), UNKNOWN, stage=1),
    Layout(
        "akamaster/pytorch_resnet_cifar10",
        torch_patterns("shortcut", "linear"),
        CIFAR,
        stage=1,
        family="cifar",
        options="AB",
        networks="resnet20, resnet32, ..., and resnet20-B, resnet32-B, ...",
    ),
    Layout(
        "Hugging Face",
        transformers_patterns(),
        UNKNOWN,
        variant="",
        stage=0,
        layer=0,
        networks=f"resnet18, resnet34, resnet50, resnet101, resnet152, {V1_5}",
    ),
    caffe_layout(AUTHORS, caffe_patterns(), MSRA, "v1", bgr=True, networks=V1),
    # In the files of Detectron and detectron2, the last layer tells the source of the weights.
    # Their configurations have the stride in the 1x1 layer "only for the original MSRA ResNet", and
    # give nets trained in Caffe2 torchvision's means and divisors, in the order blue, green, red.
    caffe_layout(FROM_AUTHORS, detectron_patterns("fc1000"), MSRA, "v1", bgr=True, networks=V1),
    caffe_layout(
        "Caffe2 as Detectron has it",
        detectron_patterns("pred|linear"),
        UNKNOWN,
        bgr=True,
        networks=V1_5,
    ),
    caffe_layout("torchvision as detectron2 has it", detectron_patterns(r"stem\.fc"), UNKNOWN),
)


def layout_of(keys: list[str], spec: ModelSpec) -> Layout:
    """The layout of weights for a network, by their keys. Raises ValueError for unknown keys."""
    if spec.family == "baseline":
        return baseline_layout(keys, spec)

    def fit(layout: Layout) -> tuple[int, bool]:
        return sum(layout.name(key) is not None for key in keys), layout.family == spec.family

    layout = max(LAYOUTS, key=fit)
    if not fit(layout)[0]:
        raise ValueError(
            f"the keys of these weights are not those of torchvision, timm, {LAYOUTS[1].source}, "
            f"Hugging Face, {AUTHORS}, Detectron or detectron2 {summarize(keys)}"
        )
    headless = not any((layout.name(key) or "").startswith("fc.") for key in keys)
    if headless and layout.caffe_norm and layout.source != AUTHORS:
        raise ValueError(
            "these weights have no classifier (no fc1000, pred or stem.fc): they are the body of a "
            "detector, and nothing else tells their source"
        )
    return layout


def check_variant(
    layout: Layout, spec: ModelSpec, config: PretrainedConfig | None, assume: str | None
) -> None:
    """Raises ValueError for weights of another kind of network, or of the other variant of a
    bottleneck, which their keys do not show."""
    if assume not in (None, "v1", "v1.5"):
        raise ValueError(f"one can assume v1 or v1.5, not {assume!r}")
    if spec.family != layout.family or spec.option not in layout.options:
        raise ValueError(
            f"these weights have the layout of {layout.source}, which has no {spec.name}; "
            f"it has {layout.networks}"
        )
    if spec.family != "imagenet" or ROWS[spec.depth][1] == 1:
        return
    variant = assume or (config and config.variant) or layout.variant
    if not variant:
        raise ValueError(
            f"weights of {layout.source} are of the variant v1 or v1.5, which a config.json beside "
            "them tells, and here is none: assume the right one"
        )
    if variant != spec.variant:
        target = f"resnet{spec.depth}{'-v1.5' * (variant == 'v1.5')}"
        if assume:
            raise ValueError(
                f"{spec.name} is the variant {spec.variant}; to assume {assume}, convert to "
                f"{target}"
            )
        hint = ", or assume v1 if they are" if variant == "v1.5" else ""
        raise ValueError(
            f"weights of {layout.source} are of the variant {variant}, which has the stride in the "
            f"{published.STRIDES[variant]} layer: convert them to {target}{hint}"
        )


def with_padding_behind(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network whose option A pads channels on both sides, for one that pads behind.

    That padding puts the old channels into the middle of the new ones, and residual's before them,
    so the channels of the shortcuts have another order in each stage. The first convolution of a
    block and the last layer read them; the second convolution and its normalization write them.
    """
    orders = {2: torch.arange(16)}  # by stage: the library's number of each channel
    for stage, width in ((3, 32), (4, 64)):
        front = width // 4
        middle, behind = orders[stage - 1] + front, torch.arange(width - front, width)
        orders[stage] = torch.cat([middle, torch.arange(front), behind])
    reordered = dict(state)
    for key, tensor in state.items():
        unit = re.fullmatch(r"conv(\d)_x\.(\d+)\.branch\.(\d)\.\d\.\w+", key)
        if key == "fc.weight":
            reordered[key] = tensor[:, orders[4]]
        elif unit and tensor.ndim:
            stage, block, layer = map(int, unit.groups())
            if layer == 2:
                reordered[key] = tensor[orders[stage]]
            elif tensor.ndim == 4:
                reordered[key] = tensor[:, orders[stage if block else max(stage - 1, 2)]]
    return reordered


# ---- baselines ----------------------------------------------------------------------------------

GOOGLENET = {  # residual's names of layers by Caffe's
    "conv1/7x7_s2": "conv1.0",
    "conv2/3x3_reduce": "conv2_reduce.0",
    "conv2/3x3": "conv2.0",
    **{
        f"inception_{module}/{branch}": f"inception{module}.{layer}"
        for module in MODULES
        for branch, layer in {
            **{"1x1": "1x1.0", "pool_proj": "pool.1.0"},
            **{"3x3_reduce": "3x3.0.0", "3x3": "3x3.1.0"},
            **{"5x5_reduce": "5x5.0.0", "5x5": "5x5.1.0"},
        }.items()
    },
    **{
        f"loss{number}/{part}": f"heads.inception{module}.{layer}"
        for number, module in ((1, "4a"), (2, "4d"))
        for part, layer in (("conv", "conv.0"), ("fc", "fc1"), ("classifier", "fc2"))
    },
    "loss3/classifier": "fc",
}


def baseline_layout(keys: list[str], spec: ModelSpec) -> Layout:
    """The layout of weights for VGG or GoogLeNet. Raises ValueError for any other baseline."""
    if not spec.name.startswith(("vgg", "googlenet")):
        raise ValueError(
            f"weights of other libraries cannot be converted to {spec.name}, but to vgg16 and "
            "vgg19 (torchvision's and Caffe's weights) and googlenet (Caffe's)"
        )
    caffe, vgg = any(re.fullmatch(r".*/[01]", key) for key in keys), spec.name != "googlenet"
    parameters = build_meta(spec.name).state_dict()
    config = published.TORCHVISION
    if caffe:
        config = published.VGG if vgg else published.GOOGLENET
        layers = {key.partition(".")[0]: key.rpartition(".")[0] for key in parameters}
        names = {
            f"{blobs}/{number}": f"{layer}.{tensor}"
            for blobs, layer in (layers if vgg else GOOGLENET).items()
            for number, tensor in enumerate(("weight", "bias"))
        }
    elif vgg:
        from torchvision.models import get_model

        with torch.device("meta"):
            names = dict(zip(get_model(spec.name).state_dict(), parameters, strict=True))
    else:
        raise ValueError(
            "torchvision's googlenet is another network (batch normalization, 3x3 in place of 5x5);"
            " the weights that fit are those of Caffe's bvlc_googlenet.caffemodel"
        )
    source, head = "Caffe's model collection" if caffe else "torchvision", "fc8" if vgg else "fc"
    return Layout(source, names, config, family="baseline", options="", head=head, bgr=caffe)
