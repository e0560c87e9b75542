"""Ghost batch normalization (statistics of groups of images), and precise statistics."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.distributed import World


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that, during a training step, normalizes each group of images ("ghost
    batch", Hoffer et al. 2017) by its own statistics. Otherwise it is an ordinary `nn.BatchNorm2d`.
    """

    group = 0  # images per group; 0: no training step
    # Means and variances (groups, C) of the last forward pass, and the number of values per channel
    # in a group. The variances are unbiased, as torch's: n / (n - 1) of those that normalize.
    statistics: tuple[Tensor, Tensor, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), in a training step whole groups of them -> the same shape."""
        if not (self.group and self.training):
            return super().forward(x)
        groups = len(x) // self.group
        wide = torch.promote_types(x.dtype, torch.float32)
        kind = wide if self.weight is None else self.weight.dtype
        means, variances = x.new_zeros((2, groups, x.shape[1]), dtype=kind)
        chunks = x.chunk(groups) if groups > 1 else [x]  # a chunk's gradient is copied
        outputs = [
            F.batch_norm(chunk, means[g], variances[g], self.weight, self.bias, True, 1.0, self.eps)
            for g, chunk in enumerate(chunks)
        ]
        self.statistics = means, variances, chunks[0].numel() // x.shape[1]
        return outputs[0] if groups == 1 else torch.cat(outputs)


class GhostBatchNorms:
    """All batch normalizations of a network in training.

    The statistics of a step are accumulated, and the running ones move once, toward their mean over
    all groups. So they are the same on one device and on many, and a step that fails moves nothing.
    Modules keep their weights, statistics, hooks and names.
    """

    def __init__(self, net: nn.Module, group: int, frozen: bool = False) -> None:
        for module in net.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GhostBatchNorm2d
        self.modules = [m for m in net.modules() if isinstance(m, GhostBatchNorm2d)]
        self.tracked = [norm for norm in self.modules if norm.running_mean is not None]
        both = ((norm.running_mean, norm.running_var) for norm in self.tracked)
        self.running = [s for pair in both for s in pair if s is not None]
        self.group, self.frozen = group, frozen
        self.accumulated: list[Tensor] = []  # mean and variance of each tracked module

    def begin_step(self) -> None:
        self.forget()
        for module in self.modules:
            module.group = self.group
            if self.frozen:
                module.eval()
        self.accumulated = [] if self.frozen else [torch.zeros_like(s) for s in self.running]

    def accumulate(self, weight: float, groups: int = 1) -> None:
        """Add the statistics of the last forward pass, of so many groups, or a module's own without
        a pass; `weight` is one group's part of the images of this process."""
        for i, (running, total) in enumerate(zip(self.running, self.accumulated, strict=False)):
            passed = self.tracked[i // 2].statistics
            total += (passed[:2][i % 2].sum(dim=0) if passed else running * groups) * weight
        self.forget()

    def forget(self) -> None:
        """Forget the last forward pass: a module may have no part in the next."""
        for module in self.modules:
            module.statistics = None

    def update_running(self) -> None:
        """Move the running statistics with the momentum of each module, usually 0.1."""
        # Deviation: a momentum of None, which in torch is the mean over all steps, counts as 0.1.
        for i, (running, batch) in enumerate(zip(self.running, self.accumulated, strict=False)):
            momentum = self.tracked[i // 2].momentum
            running.lerp_(batch, 0.1 if momentum is None else momentum)

    def end_step(self) -> None:
        """Make the modules ordinary batch normalizations again."""
        self.forget()
        for module in self.modules:
            module.group = 0


def precise_statistics(
    net: nn.Module,
    norms: GhostBatchNorms,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    precision: Callable[[], AbstractContextManager[object]],
    world: World,
) -> None:
    """Set the running statistics to those over many training batches (precise batch norm, Wu and
    Johnson 2021; in the authors' release "computed by average (not moving average) on a
    sufficiently large training batch after the training").

    Each group is normalized by its own statistics. The mean is that of the groups' means. The
    variance is the mean of the groups' biased variances plus the variance of their means.
    """
    sums = {norm: torch.zeros(4, norm.num_features, dtype=torch.float64) for norm in norms.tracked}
    net.train()
    trained = [norm for norm in norms.modules if norm.training]
    net.eval()  # without dropout of any kind, as where the statistics serve
    for norm in trained:
        norm.train()
    norms.begin_step()
    with torch.no_grad():
        for _ in range(steps):
            images, _ = next(batches)
            for group in torch.split(images, norms.group):
                norms.forget()
                with precision():
                    net(group)
                for norm in (norm for norm in norms.tracked if norm.statistics):
                    means, variances, n = norm.statistics  # type: ignore[misc]
                    mean, unbiased = means[0].double().cpu(), variances[0].double().cpu()
                    rows = mean, unbiased * (n - 1) / n, mean**2, torch.ones_like(mean)
                    sums[norm] += torch.stack(rows)
    for norm, total in sums.items():
        *values, passes = world.all_reduce(total)
        if passes.all():
            mean, variance, square = (value / passes for value in values)
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance + square - mean**2)  # type: ignore[union-attr]
    norms.end_step()
    net.eval()
