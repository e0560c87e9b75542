"""Table 1 and Section 4.2: the paper's networks by name, each built from one row of a table."""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from residual.models.blocks import Residual, basic, bottleneck, conv_bn, shortcut

Branch = Callable[[int, int, int], nn.Sequential]

ROWS: dict[int, tuple[Branch, int, tuple[int, int, int, int]]] = {
    # Table 1, depth: branch, expansion, blocks in conv2_x to conv5_x
    18: (basic, 1, (2, 2, 2, 2)),
    34: (basic, 1, (3, 4, 6, 3)),
    50: (bottleneck, 4, (3, 4, 6, 3)),
    101: (bottleneck, 4, (3, 4, 23, 3)),
    152: (bottleneck, 4, (3, 8, 36, 3)),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)  # Table 6
NAME = re.compile(r"(cifar-)?(plain|resnet)([1-9][0-9]*)(?:-([ABC]))?(-v1\.5)?")
# The paper's networks, in the order of `residual networks`. Other letters, and other depths of the
# form 6n+2, follow the same pattern.
NETWORKS = (
    *("plain18", "plain34", "resnet18", "resnet18-A", "resnet18-C"),
    *("resnet34", "resnet34-A", "resnet34-C", "resnet50", "resnet101", "resnet152"),
    *("resnet50-v1.5", "resnet101-v1.5", "resnet152-v1.5"),
    *(f"plain{depth}" for depth in CIFAR_DEPTHS[:-1]),
    *(f"resnet{depth}" for depth in CIFAR_DEPTHS),
    *(f"resnet{depth}-B" for depth in CIFAR_DEPTHS),
)


@dataclass(frozen=True)
class ModelSpec:
    """The properties of a network that follow from its name."""

    name: str
    family: str  # "imagenet" or "cifar"; "baseline" for a network that the paper compares with
    depth: int
    option: str  # "plain", "A", "B" or "C"
    variant: str  # "v1", or "v1.5" of the bottleneck nets
    input_size: int  # pixels on a side of the input that its publication gives it
    classes: int
    pixel_range: int = 1  # of the input, before the mean is subtracted: 1, or 255 as in the files


def parse_name(name: str, networks: Sequence[str] = NETWORKS) -> ModelSpec:
    """The specification of a network of the paper. `resnet34-B` and `resnet34` are one network,
    under the shorter name. Raises ValueError, listing `networks`, for any other name."""
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"no network {name!r}; there are {', '.join(networks)}")
    small, kind, digits, letter, later = match.groups()
    depth = int(digits)
    family = "imagenet" if depth in ROWS and not small else "cifar"
    if family == "cifar" and (depth < 8 or (depth - 2) % 6):
        raise ValueError(
            f"no network {name!r}: a CIFAR network has 6n+2 layers (20, 32, 44, ...), not {depth}, "
            f"and Table 1 has {', '.join(map(str, ROWS))}"
        )
    if kind == "plain" and letter:
        raise ValueError(f"no network {name!r}: a plain network has no shortcut; use {kind}{depth}")
    if later and not (family == "imagenet" and ROWS[depth][0] is bottleneck):
        raise ValueError(f"no network {name!r}: only resnet50, 101 and 152 have a variant v1.5")
    default = "plain" if kind == "plain" else "B" if family == "imagenet" else "A"
    if letter == default:
        name = name.replace(f"-{letter}", "")
    if small and depth not in ROWS:
        name = name.removeprefix("cifar-")
    variant = "v1.5" if later else "v1"
    size, classes = (224, 1000) if family == "imagenet" else (32, 10)
    return ModelSpec(name, family, depth, letter or default, variant, size, classes)


def resnet(spec: ModelSpec, classes: int) -> nn.Module:
    """A plain or residual network. Images (N, 3, H, W) -> scores (N, classes)."""
    net = imagenet(spec, classes) if spec.family == "imagenet" else cifar(spec, classes)
    # He et al. 2015, the paper's [13].
    # Choice: He's initialization uses fan-in, the forward case; the paper does not say which. The
    # last layer keeps PyTorch's uniform initialization; batch norm begins as the identity.
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return net


def imagenet(spec: ModelSpec, classes: int) -> nn.Module:
    """A network of Table 1."""
    branch, w, (n2, n3, n4, n5) = ROWS[spec.depth]
    if spec.variant == "v1.5":
        branch = partial(bottleneck, v15=True)
    # Choice: max pooling is padded by one pixel, as in the Torch release; the Caffe release starts
    # at pixel 0 and rounds up. Both give 56x56.
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(conv_bn(3, 64, 7, stride=2), nn.ReLU(inplace=True)),
            pool1=nn.MaxPool2d(3, stride=2, padding=1),
            conv2_x=stage(branch, spec.option, 64, 64 * w, n2, stride=1),
            conv3_x=stage(branch, spec.option, 64 * w, 128 * w, n3, stride=2),
            conv4_x=stage(branch, spec.option, 128 * w, 256 * w, n4, stride=2),
            conv5_x=stage(branch, spec.option, 256 * w, 512 * w, n5, stride=2),
            pool5=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(512 * w, classes),
        )
    )


def cifar(spec: ModelSpec, classes: int) -> nn.Module:
    """A network of Sec. 4.2: 6n+2 layers, of 16, 32 and 64 filters."""
    n = (spec.depth - 2) // 6
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(conv_bn(3, 16, 3), nn.ReLU(inplace=True)),
            conv2_x=stage(basic, spec.option, 16, 16, n, stride=1),
            conv3_x=stage(basic, spec.option, 16, 32, n, stride=2),
            conv4_x=stage(basic, spec.option, 32, 64, n, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(64, classes),
        )
    )


def stage(
    branch: Branch, option: str, n_in: int, n_out: int, blocks: int, stride: int
) -> nn.Sequential:
    """Blocks of one width. Only the first may widen and subsample."""
    shapes = [(n_in, n_out, stride)] + [(n_out, n_out, 1)] * (blocks - 1)
    return nn.Sequential(*(Residual(branch(*shape), shortcut(option, *shape)) for shape in shapes))
