"""Caffe's names and arithmetic: the authors' release, and what Detectron made of it."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

EPSILON = 1e-5  # of batch normalization, in Caffe as here
# Blobs of a layer, in the order of a .caffemodel. Caffe's BatchNorm only normalizes, its third blob
# divides the other two; a Scale layer after it learns gamma and beta (the authors' README).
BLOBS = {
    "res": ("weight", "bias"),
    "fc": ("weight", "bias"),
    "bn": ("running_mean", "running_var", "factor"),
    "scale": ("weight", "bias"),
}
SUFFIXES = {  # in Caffe2
    **{"w": "weight", "b": "bias", "s": "weight", "gamma": "weight", "beta": "bias"},
    **{"rm": "running_mean", "running_mean": "running_mean"},
    **{"riv": "running_var", "running_var": "running_var"},  # a variance, whatever the i stands for
}


def unit(stage: str, block: int, branch: str, norm: bool) -> str:
    """Our name for a convolution or its normalization; the branch is 1, 2a, 2b or 2c."""
    place = f"conv{stage}_x.{block}"
    if branch == "1":
        return f"{place}.shortcut.{int(norm)}"
    return f"{place}.branch.{2 * 'abc'.index(branch[-1])}.{int(norm)}"


def caffe_name(key: str) -> str | None:
    """Our name for `layer/blob` of a .caffemodel, e.g. res4b7_branch2a/0 or bn_conv1/1."""
    layer, _, number = key.partition("/")
    inside = re.fullmatch(r"(res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2[abc])", layer)
    outside = re.fullmatch(r"(?:(bn|scale)_)?conv1", layer)
    if inside:
        kind, stage, letter, count, branch = inside.groups()
        # The blocks are a, b, c, ... or, in the deeper nets, a, b1, b2, ...
        block = int(count) if count else ord(letter) - ord("a")
        module = unit(stage, block, branch, kind != "res")
    elif outside:
        kind = outside[1] or "res"
        module = f"conv1.0.{int(kind != 'res')}"
    elif layer.startswith("fc"):
        kind, module = "fc", "fc"
    else:
        return None
    blobs = dict(enumerate(BLOBS[kind]))
    return f"{module}.{blobs[int(number)]}" if number.isdigit() and int(number) in blobs else None


def caffe2_name(key: str, head: str) -> str | None:
    """Our name for one of Detectron's, e.g. res4_7_branch2a_w or res_conv1_bn_s."""
    match = re.fullmatch(
        rf"(?:res([2-5])_(\d+)_branch(1|2[abc])|(?:res_)?(conv1)|({head}))(_bn)?_(\w+)", key
    )
    if match is None or match[7] not in SUFFIXES:
        return None
    stage, block, branch, first, _, norm, suffix = match.groups()
    what = SUFFIXES[suffix]
    if first:
        return f"conv1.0.{int(bool(norm))}.{what}"
    return f"{unit(stage, int(block), branch, bool(norm))}.{what}" if stage else f"fc.{what}"


def detectron2_name(key: str, head: str) -> str | None:
    """Our name for one of detectron2's, e.g. res4.7.conv1.weight or stem.conv1.norm.bias."""
    key = re.sub(r"^(backbone\.)?(bottom_up\.)?", "", key)
    match = re.fullmatch(
        rf"(?:res([2-5])\.(\d+)\.(?:conv([123])|shortcut)|stem\.(conv1)|({head}))(\.norm)?\.(\w+)",
        key,
    )
    if match is None:
        return None
    stage, block, number, first, _, norm, what = match.groups()
    if first:
        return f"conv1.0.{int(bool(norm))}.{what}"
    if not stage:
        return f"fc.{what}"
    branch = f"2{' abc'[int(number)]}" if number else "1"
    return f"{unit(stage, int(block), branch, bool(norm))}.{what}"


def detectron_name(key: str, head: str) -> str | None:
    """Our name for a name of Detectron or of detectron2, where the last layer is called so."""
    return caffe2_name(key, head) or detectron2_name(key, head)


def expected(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """The shapes of Caffe's further blobs, beside those of our network's."""
    further = {}
    for key, shape in shapes.items():
        if key.endswith(".1.running_mean"):
            place = key.removesuffix(".1.running_mean")
            further[f"{place}.0.bias"] = shape
            further[f"{place}.1.factor"] = torch.Size([1])
    return further


def settled(state: dict[str, Tensor], bgr: bool) -> dict[str, Tensor]:
    """The same network in our arithmetic: no biases but the last one, and RGB.

    Statistics that are missing in all layers were folded into the normalization's scale and bias.
    """
    # Caffe corrects its running variance to be unbiased, as PyTorch does; the authors' release has
    # averages over a large batch instead. Neither concerns a network that is used.
    state = dict(state)
    for key in [key for key in state if key.endswith(".1.weight")]:
        place, scale = key.removesuffix(".1.weight"), state[key]
        mean = state.get(f"{place}.1.running_mean", torch.zeros_like(scale))
        var = state.get(f"{place}.1.running_var", torch.full_like(scale, 1 - EPSILON))
        factor = state.pop(f"{place}.1.factor", torch.ones(1))
        count = 1 / factor if factor else torch.zeros(1)
        # A bias before a normalization moves the mean that it subtracts.
        state[f"{place}.1.running_mean"] = mean * count - state.pop(f"{place}.0.bias", 0)
        state[f"{place}.1.running_var"] = var * count
    if bgr:
        state["conv1.0.0.weight"] = state["conv1.0.0.weight"].flip(1)
    return state
