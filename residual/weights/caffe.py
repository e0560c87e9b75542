"""Reads Caffe's files (.caffemodel, .binaryproto), and converts its batch normalization."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Field numbers of caffe.proto.
# The layers of a NetParameter, new and old (V1LayerParameter): the layer's name and blobs.
LAYERS = {100: (1, 7), 2: (4, 6)}
OLD_SHAPE = (1, 2, 3, 4)  # of a BlobProto without SHAPE: num, channels, height, width
DATA, SHAPE, DOUBLES = 5, 7, 8  # of a BlobProto
DIM = 1  # of a BlobShape

FIXED_SIZES = {1: 8, 5: 4}  # bytes by wire type


def fields(message: memoryview) -> dict[int, list[Any]]:
    """The fields of a protobuf message by number, each an integer or bytes. Raises ValueError."""
    values: dict[int, list[Any]] = defaultdict(list)
    position = 0
    while position < len(message):
        key, position = varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            integer, position = varint(message, position)
            values[number].append(integer)
            continue
        if wire_type == 2:
            size, position = varint(message, position)
        elif wire_type in FIXED_SIZES:
            size = FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"byte {position - 1} begins no field")
        if position + size > len(message):
            raise ValueError(f"field {number} is cut off")
        values[number].append(message[position : position + size])
        position += size
    return values


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """An integer of seven bits a byte, whose last byte is below 128, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it is cut off")
        value |= (message[position] & 127) << shift
        position += 1
        if message[position - 1] < 128:
            return value, position
    raise ValueError(f"byte {position} ends no integer")


def blob(message: memoryview) -> Tensor:
    """A BlobProto as float32. An old blob loses its leading sides of 1."""
    values = fields(message)
    doubles = values[DOUBLES]
    data = np.frombuffer(b"".join(doubles or values[DATA]), "<f8" if doubles else "<f4")
    if values[SHAPE]:
        shape = list(dimensions(values[SHAPE][-1]))
    else:
        shape = [(values[number] or [1])[-1] for number in OLD_SHAPE]
        while len(shape) > 1 and shape[0] == 1:
            del shape[0]
    return torch.from_numpy(data.astype(np.float32)).view(shape)


def dimensions(message: memoryview) -> Iterator[int]:
    """The sides in a BlobShape, packed or unpacked."""
    for value in fields(message)[DIM]:
        if isinstance(value, int):
            yield value
            continue
        position = 0
        while position < len(value):
            side, position = varint(value, position)
            yield side


def read(path: Path) -> dict[str, Tensor]:
    """The blobs of a .caffemodel by name: `layer/0`, `layer/1`, ... Raises ValueError."""
    blobs: dict[str, Tensor] = {}
    try:
        model = fields(memoryview(path.read_bytes()))
        for number, (name_field, blob_field) in LAYERS.items():
            for layer in map(fields, model[number]):
                name = str((layer[name_field] or [b""])[0], "utf-8")
                blobs |= {f"{name}/{i}": blob(part) for i, part in enumerate(layer[blob_field])}
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or is no .caffemodel: {error}") from error
    if not blobs:
        raise ValueError(f"{path} holds no layer with weights, as a .caffemodel has")
    return blobs


def read_mean(path: Path) -> Tensor:
    """The mean image (3, H, W) of a .binaryproto, in its channel order: BGR, 0 to 255.

    Raises FileNotFoundError, or ValueError for anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no mean image {path}")
    try:
        mean = blob(memoryview(path.read_bytes()))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or is no .binaryproto: {error}") from error
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise ValueError(f"{path} holds no mean image of three channels: {tuple(mean.shape)}")
    return mean


# ---- batch normalization ------------------------------------------------------------------------

EPSILON = 1e-5  # of batch normalization, in Caffe as here


def additional_shapes(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Shapes of the tensors that only Caffe's network has: convolution biases and BatchNorm's
    third blob, by which the statistics are divided."""
    suffix = ".1.running_mean"
    norms = {key.removesuffix(suffix): shapes[key] for key in shapes if key.endswith(suffix)}
    biases = {f"{place}.0.bias": shape for place, shape in norms.items()}
    return biases | {f"{place}.1.factor": torch.Size([1]) for place in norms}


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Caffe's weights with the factor and the convolution biases merged into the statistics.

    Missing statistics of all layers have been merged into scale and bias: mean 0, variance 1.
    """
    # Caffe corrects its running variance to be unbiased, as PyTorch does; the authors' release has
    # averages over a large batch instead. Neither matters for inference.
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
    return state
