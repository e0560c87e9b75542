"""GoogLeNet (Szegedy et al., arXiv 1409.4842) and BN-Inception (Ioffe and Szegedy, 1502.03167)."""

from torch import nn

from residual.models.baselines.layers import (
    Branches,
    WithHeads,
    conv,
    global_average,
    initialize,
    max_pool,
    sequential,
)
from residual.models.blocks import conv_bn

GOOGLENET = {  # in, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, projection of the pooled
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
BN_INCEPTION = {  # in, 1x1, 3x3 reduce, 3x3, double reduce, double 3x3, pooling, its projection
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


def googlenet(classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes); in training the scores of two heads besides."""
    parts: dict[str, nn.Module] = {
        "conv1": conv(3, 64, 7, stride=2),
        "pool1": max_pool(3, 2),
        "norm1": response_norm(),
        "conv2_reduce": conv(64, 64, 1),
        "conv2": conv(64, 192, 3),
        "norm2": response_norm(),
        "pool2": max_pool(3, 2),
    }
    for name, row in GOOGLENET.items():
        parts[f"inception{name}"] = inception(*row)
        if name in ("3b", "4e"):
            parts[f"pool{name[0]}"] = max_pool(3, 2)
    parts |= {"pool5": global_average(), "drop": nn.Dropout(0.4), "fc": nn.Linear(1024, classes)}
    # Choice: for images larger than 224x224, GoogLeNet's auxiliary classifiers average their
    # feature map to the 4x4 that their first layer takes.
    heads = {"inception4a": auxiliary(512, classes), "inception4d": auxiliary(528, classes)}
    # Choice: GoogLeNet has Glorot's initialization, and biases of 0.2 except in the classifiers, as
    # in the public Caffe training; the publication names none.
    net = initialize(WithHeads(parts, heads), nn.init.xavier_uniform_)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) or (
            isinstance(module, nn.Linear) and module.out_features == 1024
        ):
            assert module.bias is not None
            nn.init.constant_(module.bias, 0.2)
    return net


def inception(n: int, one: int, r3: int, three: int, r5: int, five: int, proj: int) -> nn.Module:
    """Four branches over one map, which keeps its size."""
    return Branches(
        {
            "1x1": conv(n, one, 1),
            "3x3": nn.Sequential(conv(n, r3, 1), conv(r3, three, 3)),
            "5x5": nn.Sequential(conv(n, r5, 1), conv(r5, five, 5)),
            "pool": nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(n, proj, 1)),
        }
    )


def response_norm() -> nn.Module:
    """Local response normalization across five channels; torch divides alpha by five, as Caffe."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def auxiliary(n_in: int, classes: int) -> nn.Module:
    """An auxiliary head on a map of 14x14, or larger."""
    return sequential(
        pool=nn.Sequential(nn.AvgPool2d(5, 3), nn.AdaptiveAvgPool2d(4)),
        conv=conv(n_in, 128, 1),
        flat=nn.Flatten(),
        fc1=nn.Linear(128 * 4 * 4, 1024),
        relu=nn.ReLU(),
        drop=nn.Dropout(0.7),
        fc2=nn.Linear(1024, classes),
    )


def bn_inception(classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes)."""
    # Choice: in BN-Inception the projections of 4c and 4d have 96 channels, which gives the
    # published sizes 576 and 1024; the published 128 would give 608 and 1056. Convolutions have no
    # bias and the first is a plain 7x7: 11,194,984 parameters. The publication says 13.6M, perhaps
    # with auxiliary classifiers; ours has none.
    modules = {f"inception{name}": bn_module(*row) for name, row in BN_INCEPTION.items()}
    net = sequential(
        conv1=unit(3, 64, 7, 2),
        pool1=max_pool(3, 2),
        conv2_reduce=unit(64, 64, 1),
        conv2=unit(64, 192, 3),
        pool2=max_pool(3, 2),
        **modules,
        pool=global_average(),
        fc=nn.Linear(1024, classes),
    )
    # Choice: BN-Inception has He's initialization, as the ResNets; the publication names none.
    return initialize(net, nn.init.kaiming_normal_)


def bn_module(
    n: int, one: int, r3: int, three: int, double: int, twice: int, pool: str, proj: int
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
    else:
        kind = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
        branches["pool"] = nn.Sequential(kind(3, 1, 1), unit(n, proj, 1))
    return Branches(branches)


def unit(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution, batch normalization and ReLU."""
    return nn.Sequential(*conv_bn(n_in, n_out, kernel, stride), nn.ReLU())
