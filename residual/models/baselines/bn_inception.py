"""BN-Inception, the network of the batch-normalization paper (Ioffe and Szegedy, 1502.03167)."""

from torch import nn

from residual.models.baselines.layers import Branches, average, drawn, pool, stack
from residual.models.blocks import conv_bn

# Choice: the projections of 4c and 4d have 96 channels, which gives the sizes 576 and 1024 that the
# publication prints; the 128 that it prints beside them would give 608 and 1056. Convolutions have
# no bias and the first is a plain 7x7: 11,194,984 parameters, where the publication says 13.6M
# without a word on heads, of which there are none here.
MODULES = {  # in, 1x1, 3x3 reduce, 3x3, double reduce, double 3x3, pooling, its projection
    "3a": (192, 64, 64, 64, 64, 96, "average", 32),
    "3b": (256, 64, 64, 96, 64, 96, "average", 64),
    "3c": (320, 0, 128, 160, 64, 96, "max", 0),
    "4a": (576, 224, 64, 96, 96, 128, "average", 128),
    "4b": (576, 192, 96, 128, 96, 128, "average", 128),
    "4c": (576, 160, 128, 160, 128, 160, "average", 96),
    "4d": (576, 96, 128, 192, 160, 192, "average", 96),
    "4e": (576, 0, 128, 192, 192, 256, "max", 0),
    "5a": (1024, 352, 192, 320, 160, 224, "average", 128),
    "5b": (1024, 352, 192, 320, 192, 224, "max", 128),
}


def unit(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution, batch normalization and ReLU."""
    return nn.Sequential(*conv_bn(n_in, n_out, kernel, stride), nn.ReLU())


def inception(
    n: int, one: int, r3: int, three: int, double: int, twice: int, kind: str, proj: int
) -> nn.Module:
    """Four branches over one map; without a 1x1 branch three, which halve the map, rounding up."""
    stride = 1 if one else 2
    branches: dict[str, nn.Module] = {"1x1": unit(n, one, 1)} if one else {}
    branches["3x3"] = nn.Sequential(unit(n, r3, 1), unit(r3, three, 3, stride))
    branches["twice"] = nn.Sequential(
        unit(n, double, 1), unit(double, twice, 3), unit(twice, twice, 3, stride)
    )
    if not one:
        # As the 3x3 convolutions of stride 2, a window for each second place, also where the last
        # one has nothing beside it. No value is below the zeros: they come from ReLU.
        branches["pool"] = nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), nn.MaxPool2d(3, 2))
    elif kind == "max":
        branches["pool"] = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(n, proj, 1))
    else:
        branches["pool"] = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(n, proj, 1))
    return Branches(branches)


def bn_inception(classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes)."""
    modules = {f"inception{name}": inception(*row) for name, row in MODULES.items()}
    net = stack(
        conv1=unit(3, 64, 7, 2),
        pool1=pool(3, 2),
        conv2_reduce=unit(64, 64, 1),
        conv2=unit(64, 192, 3),
        pool2=pool(3, 2),
        **modules,
        pool=average(),
        fc=nn.Linear(1024, classes),
    )
    # Choice: He's start, as the networks of this package; the publication names none.
    return drawn(net, "he")
