"""A network as the authors released it: a writer of Caffe's files, and Caffe's rules."""

import struct

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.models.resnet import ROWS

Blobs = dict[str, list[Tensor]]  # of each layer, by Caffe's name
MEANS = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)  # BGR

# ---- a small writer of Caffe's files ------------------------------------------------------------


def varint(value: int) -> bytes:
    more, last = divmod(value, 128)
    return bytes([last | 128]) + varint(more) if more else bytes([last])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor: Tensor, form: str = "packed") -> bytes:
    shape = field(7, field(1, b"".join(map(varint, tensor.shape))))
    if form == "old":  # four sides, and each number a field of its own
        sides = [1] * (4 - tensor.ndim) + list(tensor.shape)
        shape = b"".join(varint(i << 3) + varint(side) for i, side in enumerate(sides, start=1))
        return shape + b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in tensor.flatten())
    if form == "double":
        return field(8, tensor.double().numpy().tobytes()) + shape
    return shape + field(5, tensor.numpy().tobytes())


def caffemodel(layers: Blobs) -> bytes:
    net = field(1, b"ResNet") + field(3, b"data")
    for name, blobs in {"data": [], **layers, "prob": []}.items():
        own = b"".join(field(7, blob(each)) for each in blobs)
        net += field(100, field(1, name.encode()) + field(2, b"Kind") + b"\x50\x01" + own)
    return net


# ---- a network by Caffe's rules -----------------------------------------------------------------

DRAW = torch.Generator().manual_seed(0)


def uniform(n: int, low: float, high: float) -> Tensor:
    return torch.empty(n).uniform_(low, high, generator=DRAW)


def block_name(depth: int, stage: int, block: int) -> str:
    """As in the prototxt files: b1, b2, ... where stages 3 and 4 of the deeper nets are long."""
    if depth > 50 and stage in (3, 4) and block:
        return f"{stage}b{block}"
    return f"{stage}{'abcdef'[block]}"


def units(depth: int) -> list[tuple[str, int, int, int]]:
    """Each convolution: the ending of its names, channels in and out, and kernel."""
    found, n_in = [], 64
    for stage, blocks in enumerate(ROWS[depth][2], start=2):
        n = 64 * 2 ** (stage - 2)
        for block in range(blocks):
            name = block_name(depth, stage, block) + "_branch"
            if not block:
                found.append((f"{name}1", n_in, 4 * n, 1))
            found += [(f"{name}2a", n_in, n, 1), (f"{name}2b", n, n, 3), (f"{name}2c", n, 4 * n, 1)]
            n_in = 4 * n
    return found


def drawn(depth: int, classes: int = 10) -> Blobs:
    """Blobs at random, with a bias of conv1 in ResNet-50 alone, as in the release."""
    layers: Blobs = {}
    first = ("conv1", 3, 64, 7)
    for ending, n_in, n_out, kernel in (first, *units(depth)):
        weight = torch.randn(n_out, n_in, kernel, kernel, generator=DRAW)
        # Pixels of 0 to 255 come in; what comes out is of the order of one.
        weight *= (2 / weight[0].numel()) ** 0.5 / (60 if ending == "conv1" else 1)
        layers[ending if ending == "conv1" else f"res{ending}"] = [weight]
        inner = f"_{ending}" if ending == "conv1" else ending
        factor = uniform(1, 0.5, 2.0)
        mean, var = uniform(n_out, -0.3, 0.3), uniform(n_out, 0.5, 1.5)
        layers[f"bn{inner}"] = [mean * factor, var * factor, factor]
        last = 0.3 if ending.endswith("2c") else 1.0
        layers[f"scale{inner}"] = [uniform(n_out, 0.5, 1.0) * last, uniform(n_out, -0.3, 0.3)]
    if depth == 50:
        layers["conv1"].append(uniform(64, -0.5, 0.5))
    weight = torch.randn(classes, 2048, generator=DRAW) / 20
    return layers | {"fc1000": [weight, uniform(classes, -1, 1)]}


def layer(layers: Blobs, ending: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolution, BatchNorm and Scale as Caffe computes them."""
    first = ending == "conv1"
    weight, *bias = layers[ending if first else f"res{ending}"]
    y = F.conv2d(x, weight, *bias, stride=stride, padding=weight.shape[-1] // 2)
    inner = f"_{ending}" if first else ending
    mean, var, factor = layers[f"bn{inner}"]
    gamma, beta = (each.view(-1, 1, 1) for each in layers[f"scale{inner}"])
    mean, var = (each.view(-1, 1, 1) / factor for each in (mean, var))
    return (y - mean) / (var + 1e-5).sqrt() * gamma + beta


def theirs(layers: Blobs, depth: int, images: Tensor, mean: Tensor = MEANS) -> Tensor:
    """Scores of RGB images (N, 3, H, W) uint8: BGR, 0 to 255, the stride in the first 1x1."""
    x = layer(layers, "conv1", images.flip(1).float() - mean, stride=2).relu()
    x = F.max_pool2d(x, 3, stride=2, padding=1)  # ours; Caffe's has a test of its own
    for stage, blocks in enumerate(ROWS[depth][2], start=2):
        for block in range(blocks):
            name = block_name(depth, stage, block) + "_branch"
            stride = 2 if stage > 2 and not block else 1
            y = layer(layers, f"{name}2a", x, stride).relu()
            y = layer(layers, f"{name}2c", layer(layers, f"{name}2b", y).relu())
            x = (y + (x if block else layer(layers, f"{name}1", x, stride))).relu()
    weight, bias = layers["fc1000"]
    return F.linear(x.mean(dim=(2, 3)), weight, bias)
