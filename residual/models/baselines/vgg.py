"""VGG (Simonyan and Zisserman, arXiv 1409.1556) and its successor PReLU-net, with spatial pyramid
pooling (He et al., arXiv 1502.01852)."""

import itertools
from functools import partial

import torch
from torch import Tensor, nn

from residual.models.baselines.layers import (
    SpatialPyramid,
    conv,
    global_average,
    initialize,
    sequential,
)

CONVS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # configurations D and E
WIDTHS = (64, 128, 256, 512, 512)
PRELU_NETS = {  # layers in each of three stages, and their widths
    "A": (5, (256, 512, 512)),
    "B": (6, (256, 512, 512)),
    "C": (6, (384, 768, 896)),
}
LEVELS = (7, 3, 2, 1)
WINDOW = 14  # of the last map of a 224x224 image
WINDOW_STRIDE = 8


def vgg(depth: int, classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes).

    The fully-connected layers are convolutions, as the publication has them for its dense test: one
    place of a 224x224 image, and several of a larger one, whose scores are averaged.
    """
    parts: dict[str, nn.Module] = {}
    n_in = 3
    for group, (convs, width) in enumerate(zip(CONVS[depth], WIDTHS, strict=True), 1):
        for i in range(1, convs + 1):
            parts[f"conv{group}_{i}"] = conv(n_in, width, 3)
            n_in = width
        parts[f"pool{group}"] = nn.MaxPool2d(2)
    parts["fc6"], parts["drop6"] = conv(512, 4096, 7, pad=0), nn.Dropout(0.5)
    parts["fc7"], parts["drop7"] = conv(4096, 4096, 1), nn.Dropout(0.5)
    parts["fc8"] = nn.Conv2d(4096, classes, 1)
    # Choice: VGG has Glorot's initialization; by the publication it makes training in stages
    # unnecessary. The published normal initialization (deviation 0.1, perhaps a misprint) would
    # also need the first layers of the 11-layer net.
    return initialize(sequential(**parts, pool=global_average()), nn.init.xavier_uniform_)


class Windows(nn.Module):
    """A head over windows of a map, whose scores are averaged ("multi-view on feature maps")."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        rows, columns = (window_starts(length) for length in x.shape[2:])
        views = [
            self.head(x[:, :, top : top + WINDOW, left : left + WINDOW])
            for top, left in itertools.product(rows, columns)
        ]
        return views[0] if len(views) == 1 else torch.stack(views).mean(dim=0)


def window_starts(length: int) -> list[int]:
    """The first place of each window along a side of a map."""
    last = max(0, length - WINDOW)
    return sorted({*range(0, last, WINDOW_STRIDE), last})


def prelu_net(model: str, classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes)."""
    layers, widths = PRELU_NETS[model]
    parts: dict[str, nn.Module] = {"conv1": conv_prelu(3, 96, 7, 2), "pool1": nn.MaxPool2d(2)}
    n_in = 96
    for number, width in enumerate(widths, 2):
        for i in range(1, layers + 1):
            parts[f"conv{number}_{i}"] = conv_prelu(n_in, width, 3)
            n_in = width
        if number < 4:
            parts[f"pool{number}"] = nn.MaxPool2d(2)
    head = sequential(
        pyramid=SpatialPyramid(LEVELS),
        fc1=nn.Linear(n_in * sum(n * n for n in LEVELS), 4096),
        prelu1=nn.PReLU(4096, init=0.25),
        drop1=nn.Dropout(0.5),
        fc2=nn.Linear(4096, 4096),
        prelu2=nn.PReLU(4096, init=0.25),
        drop2=nn.Dropout(0.5),
        fc3=nn.Linear(4096, classes),
    )
    # Choice: on a larger picture PReLU-net's windows have a stride of 8, and one is at the far
    # border; the publication does not give the stride.
    net = initialize(
        sequential(**parts, windows=Windows(head)), partial(nn.init.kaiming_normal_, a=0.25)
    )
    # Deviations of 0.01 for the first two fully connected layers and 0.001 for the last (a footnote
    # of Section 2.2): smaller than He's, since pixels are not normalized.
    for name, deviation in (("fc1", 0.01), ("fc2", 0.01), ("fc3", 0.001)):
        initialize(head.get_submodule(name), partial(nn.init.normal_, std=deviation))
    return net


def conv_prelu(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution, and a PReLU with a slope for each channel."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2), nn.PReLU(n_out, init=0.25)
    )
