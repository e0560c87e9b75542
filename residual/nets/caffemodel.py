"""Caffe's files: as much of the protocol buffers' wire format as `caffe.proto` needs."""

from collections.abc import Iterator
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
