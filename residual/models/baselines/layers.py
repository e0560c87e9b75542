"""Layers of the baselines that torch lacks, and short forms for those that it has."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class Maxout(nn.Module):
    """The maximum over each `pieces` consecutive channels (Goodfellow et al. 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """(N, C pieces, ...) -> (N, C, ...)."""
        return torch.unflatten(x, 1, (-1, self.pieces)).amax(dim=2)


class Highway(nn.Module):
    """y = H(x) T(x) + x (1 - T(x)), with H = relu(conv x) and T = sigmoid(conv x) (Srivastava,
    Greff and Schmidhuber 2015). The width stays."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.gate = nn.Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        transformed, gate = torch.relu(self.transform(x)), torch.sigmoid(self.gate(x))
        return transformed * gate + x * (1 - gate)


class SpatialPyramid(nn.Module):
    """Max pooling of each channel over the cells of several grids (He et al. 2014)."""

    # Choice: PReLU-net's pyramid: cell i of n spans floor(i a/n) to ceil((i+1) a/n) of a map of
    # size a, as in the later text of spatial pyramid pooling, so that any size works.
    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C sum of n^2)."""
        grids = [nn.functional.adaptive_max_pool2d(x, n).flatten(1) for n in self.levels]
        return torch.cat(grids, dim=1)


class Branches(nn.ModuleDict):
    """The outputs of several branches over one map, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, sum of the branches' channels, H, W)."""
        return torch.cat([branch(x) for branch in self.values()], dim=1)


class UnscaledDropout(nn.Module):
    """Dropout that does not scale the remaining activations."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(probability)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept: Tensor = self.dropout(x) * (1 - self.dropout.p)
        return kept


class WithHeads(nn.Module):
    """A sequence of parts, some of which feed an auxiliary head in training."""

    def __init__(self, parts: Mapping[str, nn.Module], heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Scores (N, classes); in training a tuple of them and of the heads' outputs."""
        auxiliary = []
        for name, part in self.named_children():
            if name == "heads":
                continue
            x = part(x)
            if self.training and name in self.heads:
                auxiliary.append(self.heads[name](x))
        return (x, *auxiliary) if auxiliary else x


def sequential(**parts: nn.Module) -> nn.Sequential:
    """A sequence of parts with names."""
    return nn.Sequential(OrderedDict(parts))


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, pad: int | None = None) -> nn.Module:
    """A convolution with a bias, then ReLU. Without `pad` a map keeps its size."""
    padding = kernel // 2 if pad is None else pad
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, stride, padding), nn.ReLU())


def max_pool(kernel: int, stride: int) -> nn.MaxPool2d:
    """Max pooling that rounds sizes up, as Caffe and cuda-convnet do."""
    return nn.MaxPool2d(kernel, stride, ceil_mode=True)


def global_average() -> nn.Sequential:
    """The mean of each channel: (N, C, H, W) -> (N, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def with_max_norm(layer: nn.Conv2d | nn.Linear, norm: float) -> nn.Conv2d | nn.Linear:
    """A layer whose filters the training keeps within this Euclidean norm."""
    layer.max_norm = norm  # type: ignore[assignment]
    return layer


def initialize(net: nn.Module, draw: Callable[[Tensor], object]) -> nn.Module:
    """Draw all filters anew, in place, by a function of `nn.init`. Biases become zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net
