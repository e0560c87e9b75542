"""Batch normalization over groups of images, however many of them pass at once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.distributed import World

# Of each normalization, the means and variances (groups, C) of the groups that passed last, and how
# many numbers of a channel a group has. The variances are torch's: of a sample, n / (n - 1) of that
# by which the group is normalised.
Now = dict[nn.BatchNorm2d, tuple[Tensor, Tensor, int]]


class Norms:
    """The batch normalizations of a network in training.

    Each normalizes every group of images by itself. The statistics of a step are gathered, and the
    running ones move once, toward their mean over all groups: so they are the same on one device
    and on many, and a step that failed half-way has moved nothing.
    """

    def __init__(self, net: nn.Module, group: int, frozen: bool = False) -> None:
        self.modules = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
        self.running = [s for each in self.modules for s in (each.running_mean, each.running_var)]
        self.group, self.frozen = group, frozen
        self.gathered: list[Tensor] = []
        self.now: Now = {}
        for each in self.modules:
            each.forward = partial(normalised, each, group, self.now)  # type: ignore[method-assign]

    def begin(self) -> None:
        """A step begins."""
        if self.frozen:
            for module in self.modules:
                module.eval()
        self.gathered = (
            [] if self.frozen else [torch.zeros_like(s) for s in self.running if s is not None]
        )

    def gather(self, share: float) -> None:
        """Some groups have passed; `share` is one group's part of the process's images."""
        for i, total in enumerate(self.gathered):
            means, variances, _ = self.now[self.modules[i // 2]]
            total += (variances if i % 2 else means).sum(dim=0) * share

    def move(self) -> None:
        """The running statistics move by the library's tenth."""
        for running, now in zip(self.running, self.gathered, strict=False):
            if running is not None:
                running.lerp_(now, 0.1)


def normalised(norm: nn.BatchNorm2d, group: int, now: Now, x: Tensor) -> Tensor:
    """Each group of images (group, C, H, W) by its own statistics, which are noted."""
    if not norm.training:
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    groups = len(x) // group
    means, variances = x.new_zeros((2, groups, x.shape[1]), dtype=norm.weight.dtype)
    given = x.chunk(groups) if groups > 1 else [x]  # a chunk's gradient is copied
    parts = [
        F.batch_norm(part, means[g], variances[g], norm.weight, norm.bias, True, 1.0, norm.eps)
        for g, part in enumerate(given)
    ]
    now[norm] = means, variances, given[0].numel() // x.shape[1]
    return parts[0] if groups == 1 else torch.cat(parts)


def measure(
    net: nn.Module,
    norms: Norms,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    precision: Callable[[], AbstractContextManager[object]],
    world: World,
) -> None:
    """True batch-norm statistics over so many training batches (the authors' release: "computed by
    average (not moving average) on a sufficiently large training batch after the training").

    They are those of all images together, each group normalised by itself on the way (precise batch
    norm, Wu and Johnson 2021). The mean is that of the groups' means; the variance is the mean of
    the groups' own, divided by n and not by n - 1, and the variance of their means.
    """
    exact = {each: torch.zeros(3, each.num_features, dtype=torch.float64) for each in norms.modules}
    net.train()
    groups = 0
    with torch.no_grad():
        for _ in range(steps):
            images, _ = next(batches)
            for part in torch.split(images, norms.group):
                with precision():
                    net(part)
                groups += 1
                for each, (means, variances, n) in norms.now.items():
                    mean, sample = means[0].double().cpu(), variances[0].double().cpu()
                    exact[each] += torch.stack([mean, sample * (n - 1) / n, mean**2])
    for each, total in exact.items():
        mean, variance, square = world.summed(total) / (groups * world.size)
        each.running_mean.copy_(mean)  # type: ignore[union-attr]
        each.running_var.copy_(variance + square - mean**2)  # type: ignore[union-attr]
    net.eval()
