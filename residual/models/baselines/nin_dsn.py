"""Network in Network for CIFAR-10 (Lin, Chen and Yan, arXiv 1312.4400), and DSN, whose body it is
(Lee et al., arXiv 1409.5185)."""

from functools import partial

from torch import nn

from residual.models.baselines.layers import (
    WithHeads,
    global_average,
    initialize,
    max_pool,
    sequential,
)


def body(classes: int) -> dict[str, nn.Module]:
    """All layers but the last ReLU; a convolution and its ReLU are two parts."""
    rows = {  # in, out, kernel
        "conv1": (3, 192, 5),
        "cccp1": (192, 160, 1),
        "cccp2": (160, 96, 1),
        "conv2": (96, 192, 5),
        "cccp3": (192, 192, 1),
        "cccp4": (192, 192, 1),
        "conv3": (192, 192, 3),
        "cccp5": (192, 192, 1),
        "cccp6": (192, classes, 1),
    }
    parts: dict[str, nn.Module] = {}
    for name, (n_in, n_out, kernel) in rows.items():
        parts[name] = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
        if name != "cccp6":
            parts[f"relu_{name}"] = nn.ReLU()
        if name in ("cccp2", "cccp4"):
            # Choice: both poolings of NIN are max pooling, as in the author's file; Caffe's model
            # zoo has average pooling second.
            parts[f"pool_{name}"], parts[f"drop_{name}"] = max_pool(3, 2), nn.Dropout(0.5)
    return parts


def nin(classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes)."""
    # Choice: NIN's last layer also has a ReLU before the average, as in the author's file.
    net = sequential(**body(classes), relu_cccp6=nn.ReLU(), pool=global_average())
    return initialize(net, partial(nn.init.normal_, std=0.05))


def dsn(classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes); in training those of three heads behind them.

    Each head takes the output of a convolution before its ReLU.
    """
    heads = {
        name: nn.Sequential(nn.Flatten(), nn.Linear(192 * side * side, classes))
        for name, side in (("conv1", 32), ("conv2", 16), ("conv3", 8))
    }
    for head in heads.values():
        initialize(head, nn.init.xavier_uniform_)
    net = initialize(sequential(**body(classes)), partial(nn.init.normal_, std=0.05))
    return WithHeads({**dict(net.named_children()), "pool": global_average()}, heads)
