"""GoogLeNet with its two auxiliary classifiers (Szegedy et al., arXiv 1409.4842)."""

from torch import nn

from residual.models.baselines.layers import Branches, WithHeads, average, conv, drawn, pool, stack

MODULES = {  # in, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, projection of the pooled
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


def normalised() -> nn.Module:
    """Local response normalisation across five channels; torch divides alpha by five, as Caffe."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def auxiliary(n_in: int, classes: int) -> nn.Module:
    """The classifier beside the main one: on a map of 14x14, or larger."""
    # Choice: GoogLeNet's heads average the pooled map of a larger image than 224x224 to the 4x4
    # that their first layer takes.
    return stack(
        pool=nn.Sequential(nn.AvgPool2d(5, 3), nn.AdaptiveAvgPool2d(4)),
        conv=conv(n_in, 128, 1),
        flat=nn.Flatten(),
        fc1=nn.Linear(128 * 4 * 4, 1024),
        relu=nn.ReLU(),
        drop=nn.Dropout(0.7),
        fc2=nn.Linear(1024, classes),
    )


def googlenet(classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes); in training the two heads' scores behind them."""
    parts: dict[str, nn.Module] = {
        "conv1": conv(3, 64, 7, stride=2),
        "pool1": pool(3, 2),
        "norm1": normalised(),
        "conv2_reduce": conv(64, 64, 1),
        "conv2": conv(64, 192, 3),
        "norm2": normalised(),
        "pool2": pool(3, 2),
    }
    for name, row in MODULES.items():
        parts[f"inception{name}"] = inception(*row)
        if name in ("3b", "4e"):
            parts[f"pool{name[0]}"] = pool(3, 2)
    parts |= {"pool5": average(), "drop": nn.Dropout(0.4), "fc": nn.Linear(1024, classes)}
    heads = {"inception4a": auxiliary(512, classes), "inception4d": auxiliary(528, classes)}
    # Choice: Glorot's start, and biases of 0.2 but for the classifiers, as in the public training
    # with Caffe; the publication names no start.
    net = drawn(WithHeads(parts, heads), "xavier")
    for module in net.modules():
        if isinstance(module, nn.Conv2d) or (
            isinstance(module, nn.Linear) and module.out_features == 1024
        ):
            assert module.bias is not None
            nn.init.constant_(module.bias, 0.2)
    return net
