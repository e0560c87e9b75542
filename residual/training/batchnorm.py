"""Ghost batch normalization: statistics of groups of images, however many pass at once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.distributed import World
from residual.models.blocks import replace_modules


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that, while a training step is taken, normalizes each group of images
    ("ghost batch", Hoffer et al. 2017) by its own statistics. At any other time it is an ordinary
    `nn.BatchNorm2d`.
    """

    group = 0  # images of a group; 0: no step is taken
    # Means and variances (groups, C) of the groups that passed last, and how many numbers of a
    # channel a group has. The variances are torch's: of a sample, n / (n - 1) of that by which the
    # group is normalized.
    statistics: tuple[Tensor, Tensor, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), in a step whole groups of them -> the same shape."""
        if not (self.group and self.training):
            return super().forward(x)
        groups = len(x) // self.group
        means, variances = x.new_zeros((2, groups, x.shape[1]), dtype=self.weight.dtype)
        chunks = x.chunk(groups) if groups > 1 else [x]  # a chunk's gradient is copied
        parts = [
            F.batch_norm(part, means[g], variances[g], self.weight, self.bias, True, 1.0, self.eps)
            for g, part in enumerate(chunks)
        ]
        self.statistics = means, variances, chunks[0].numel() // x.shape[1]
        return parts[0] if groups == 1 else torch.cat(parts)


def ghost_norms(net: nn.Module) -> list[GhostBatchNorm2d]:
    """Replace each batch normalization inside a network, in place; weights, statistics, hooks and
    names stay."""

    def ghost(norm: nn.BatchNorm2d) -> GhostBatchNorm2d:
        found = GhostBatchNorm2d(norm.num_features, device="meta")
        found.__dict__ |= norm.__dict__
        return found

    replace_modules(net, nn.BatchNorm2d, ghost)
    return [module for module in net.modules() if isinstance(module, GhostBatchNorm2d)]


class GhostBatchNorms:
    """All batch normalizations of a network in training.

    The statistics of a step are gathered, and the running ones move once, toward their mean over
    all groups: so they are the same on one device and on many, and a step that failed half-way has
    moved nothing.
    """

    def __init__(self, net: nn.Module, group: int, frozen: bool = False) -> None:
        self.modules = ghost_norms(net)
        self.running = [s for each in self.modules for s in (each.running_mean, each.running_var)]
        self.group, self.frozen = group, frozen
        self.gathered: list[Tensor] = []

    def begin(self) -> None:
        """A step begins."""
        for module in self.modules:
            module.group = self.group
            if self.frozen:
                module.eval()
        self.gathered = (
            [] if self.frozen else [torch.zeros_like(s) for s in self.running if s is not None]
        )

    def gather(self, share: float) -> None:
        """Some groups have passed; `share` is one group's part of the process's images."""
        for i, total in enumerate(self.gathered):
            means, variances, _ = self.modules[i // 2].statistics  # type: ignore[misc]
            total += (variances if i % 2 else means).sum(dim=0) * share

    def move(self) -> None:
        """The running statistics move by the library's tenth."""
        for running, now in zip(self.running, self.gathered, strict=False):
            if running is not None:
                running.lerp_(now, 0.1)

    def end(self) -> None:
        """No step is taken any more: the modules are ordinary batch normalizations."""
        for module in self.modules:
            module.group, module.statistics = 0, None


def measure(
    net: nn.Module,
    norms: GhostBatchNorms,
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
    norms.begin()
    groups = 0
    with torch.no_grad():
        for _ in range(steps):
            images, _ = next(batches)
            for part in torch.split(images, norms.group):
                with precision():
                    net(part)
                groups += 1
                for each in norms.modules:
                    means, variances, n = each.statistics  # type: ignore[misc]
                    mean, sample = means[0].double().cpu(), variances[0].double().cpu()
                    exact[each] += torch.stack([mean, sample * (n - 1) / n, mean**2])
    for each, total in exact.items():
        mean, variance, square = world.all_reduce(total) / (groups * world.size)
        each.running_mean.copy_(mean)  # type: ignore[union-attr]
        each.running_var.copy_(variance + square - mean**2)  # type: ignore[union-attr]
    norms.end()
    net.eval()
