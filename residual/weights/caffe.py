"""Caffe's names and arithmetic: the authors' release, and what Detectron made of it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# The numbers of fields in caffe.proto.
# Of a NetParameter, its layers: as they are today, and as they were before (V1LayerParameter); and
# of each kind of layer its name and its blobs.
LAYERS = {100: (1, 7), 2: (4, 6)}
SIDES = (1, 2, 3, 4)  # of a BlobProto from before `shape`: num, channels, height, width
DATA, SHAPE, DOUBLES = 5, 7, 8  # of a BlobProto
DIM = 1  # of a BlobShape

FIXED = {1: 8, 5: 4}  # kinds of values that take so many bytes
Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """A message's fields in order: number, and an integer or bytes. Raises ValueError at damage."""
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            whole, place = varint(message, place)
            yield number, whole
            continue
        if kind == 2:
            size, place = varint(message, place)
        elif kind in FIXED:
            size = FIXED[kind]
        else:
            raise ValueError(f"byte {place - 1} begins no field")
        if place + size > len(message):
            raise ValueError(f"field {number} is cut off")
        yield number, message[place : place + size]
        place += size


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the last byte below 128, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it is cut off")
        value |= (message[place] & 127) << shift
        place += 1
        if message[place - 1] < 128:
            return value, place
    raise ValueError(f"byte {place} ends no integer")


def blob(message: memoryview) -> Tensor:
    """A BlobProto: float32, in its own shape, or without the leading sides of 1 of older files."""
    floats, doubles, shape = [], [], None
    sides = dict.fromkeys(SIDES, 1)
    for number, value in fields(message):
        if isinstance(value, int):
            sides[number] = value
        elif number == DATA:
            floats.append(value)
        elif number == DOUBLES:
            doubles.append(value)
        elif number == SHAPE:
            shape = dims(value)
    data = np.frombuffer(b"".join(doubles or floats), "<f8" if doubles else "<f4")
    if shape is None:
        shape = [sides[side] for side in SIDES]
        while len(shape) > 1 and shape[0] == 1:
            del shape[0]
    return torch.from_numpy(data.astype(np.float32)).view(shape)


def dims(shape: memoryview) -> list[int]:
    """A BlobShape, in either way of writing it."""
    found = []
    for number, value in fields(shape):
        if number == DIM and isinstance(value, int):
            found.append(value)
        elif number == DIM and isinstance(value, memoryview):
            place = 0
            while place < len(value):
                side, place = varint(value, place)
                found.append(side)
    return found


def read(path: Path) -> dict[str, Tensor]:
    """The blobs of a .caffemodel, `layer/0`, `layer/1`, ... Raises ValueError for anything else."""
    blobs: dict[str, Tensor] = {}
    try:
        for number, layer in fields(memoryview(path.read_bytes())):
            if number not in LAYERS or isinstance(layer, int):
                continue
            named, with_blobs = LAYERS[number]
            parts = [(n, v) for n, v in fields(layer) if isinstance(v, memoryview)]
            name = next((str(v, "utf-8") for n, v in parts if n == named), "")
            its_own = (v for n, v in parts if n == with_blobs)
            blobs |= {f"{name}/{i}": blob(value) for i, value in enumerate(its_own)}
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or is no .caffemodel: {error}") from error
    if not blobs:
        raise ValueError(f"{path} holds no layer with weights, as a .caffemodel has")
    return blobs


def read_mean(path: Path) -> Tensor:
    """The mean image (3, H, W) of a .binaryproto, in the file's order of channels: BGR, 0 to 255.

    Raises FileNotFoundError, or ValueError for anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no mean image {path}")
    try:
        mean = blob(memoryview(path.read_bytes()))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or is no .binaryproto: {error}") from error
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise ValueError(f"{path} holds no mean image of three channels: {tuple(mean.shape)}")
    return mean


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
