"""The Maxout network for CIFAR-10 (Goodfellow et al., arXiv 1302.4389; pylearn2's cifar10.yaml)."""

from torch import nn

from residual.rivals.parts import Maxout, Omitted, drawn, limited, pool, stack


def maxout(classes: int) -> nn.Module:
    """Images (N, 3, 32, 32) -> scores (N, classes)."""
    # Choice: five pieces in the fully-connected layer, as its file says: 16,247,830 parameters. The
    # "9M" that FitNets counts for it are two pieces.
    net = stack(
        drop0=Omitted(0.2),
        h0=limited(nn.Conv2d(3, 96 * 2, 8, padding=4), 0.9),
        maxout0=Maxout(2),
        pool0=pool(4, 2),
        drop1=nn.Dropout(0.5),
        h1=limited(nn.Conv2d(96, 192 * 2, 8, padding=3), 1.9365),
        maxout1=Maxout(2),
        pool1=pool(4, 2),
        drop2=nn.Dropout(0.5),
        h2=limited(nn.Conv2d(192, 192 * 2, 5, padding=3), 1.9365),
        maxout2=Maxout(2),
        pool2=pool(2, 2),
        drop3=nn.Dropout(0.5),
        flat=nn.Flatten(),
        h3=limited(nn.Linear(192 * 5 * 5, 500 * 5), 1.9),
        maxout3=Maxout(5),
        drop4=nn.Dropout(0.5),
        fc=limited(nn.Linear(500, classes), 1.9365),
    )
    return drawn(net, "uniform", 0.005)
