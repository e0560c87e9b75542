"""The Maxout network for CIFAR-10 (Goodfellow et al., arXiv 1302.4389; pylearn2's cifar10.yaml)."""

from functools import partial

from torch import nn

from residual.models.baselines.layers import (
    Maxout,
    UnscaledDropout,
    WithHeads,
    initialize,
    max_pool,
    sequential,
    with_max_norm,
)

START = partial(nn.init.uniform_, a=-0.005, b=0.005)


def maxout(classes: int) -> nn.Module:
    """Images (N, 3, 32, 32) -> scores (N, classes)."""
    # Choice: Maxout has five pieces in the fully-connected layer, as in its published file:
    # 16,247,830 parameters. The "9M" of the FitNets publication have two pieces.
    net = sequential(
        drop0=UnscaledDropout(0.2),
        h0=with_max_norm(nn.Conv2d(3, 96 * 2, 8, padding=4), 0.9),
        maxout0=Maxout(2),
        pool0=max_pool(4, 2),
        drop1=nn.Dropout(0.5),
        h1=with_max_norm(nn.Conv2d(96, 192 * 2, 8, padding=3), 1.9365),
        maxout1=Maxout(2),
        pool1=max_pool(4, 2),
        drop2=nn.Dropout(0.5),
        h2=with_max_norm(nn.Conv2d(192, 192 * 2, 5, padding=3), 1.9365),
        maxout2=Maxout(2),
        pool2=max_pool(2, 2),
        drop3=nn.Dropout(0.5),
        flat=nn.Flatten(),
        h3=with_max_norm(nn.Linear(192 * 5 * 5, 500 * 5), 1.9),
        maxout3=Maxout(5),
        drop4=nn.Dropout(0.5),
        fc=with_max_norm(nn.Linear(500, classes), 1.9365),
    )
    return initialize(net, START)


WIDTHS = (*(32,) * 3, *(48,) * 2, *(80,) * 6, *(128,) * 6)
POOLED = {4: 2, 10: 2, 16: 8}  # after which layer, and over how many pixels
GUIDED = "pool10"  # the part that a hint is given to


def fitnet(classes: int) -> nn.Module:
    """Images (N, 3, 32, 32) -> scores (N, classes); in training the map (N, 192, 7, 7) behind them
    that is to be like the second hidden layer of a Maxout network."""
    parts: dict[str, nn.Module] = {}
    n_in = 3
    for i, width in enumerate(WIDTHS):
        parts[f"h{i}"] = with_max_norm(nn.Conv2d(n_in, width * 2, 3, padding=1), 0.9)
        parts[f"maxout{i}"] = Maxout(2)
        if i in POOLED:
            parts[f"pool{i}"] = nn.MaxPool2d(POOLED[i])
        n_in = width
    # Choice: FitNet-19 has five pieces in the fully-connected layer, as in its published file:
    # 2,742,102 parameters; the published "2.5M" have two pieces.
    parts |= {
        "flat": nn.Flatten(),
        "h17": with_max_norm(nn.Linear(128, 500 * 5), 1.9),
        "maxout17": Maxout(5),
        "fc": with_max_norm(nn.Linear(500, classes), 1.9365),
    }
    initialize(sequential(**parts), START)
    regressor = sequential(h=with_max_norm(nn.Conv2d(80, 192 * 2, 2), 0.9), maxout=Maxout(2))
    initialize(regressor, partial(nn.init.uniform_, a=-0.05, b=0.05))
    return WithHeads(parts, {GUIDED: regressor})
