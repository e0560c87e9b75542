"""Fig. 7: how strongly each 3x3 layer of a network responds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from residual.analysis.curves import bare, palette, save
from residual.data.batches import evaluation_batches
from residual.data.datasets import Data, Photographs
from residual.device import ComputeConfig
from residual.finite import WORDS, NotFinite
from residual.models.registry import model_spec
from residual.runs.load import Trained
from residual.tasks.classification.evaluate import check_size


@dataclass(frozen=True)
class Moments:
    """How many numbers were seen, their mean, and the sum of squared distances from that mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both parts together, without cancellation (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart**2 * self.count * other.count / count,
        )

    @property
    def std(self) -> float:
        return sqrt(self.squares / self.count)


def moments(values: Tensor) -> Moments:
    """The moments of all numbers of a tensor that is not empty, in float64."""
    variance, mean = torch.var_mean(values.double(), correction=0)
    return Moments(values.numel(), float(mean), float(variance) * values.numel())


def three_by_three(net: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch normalization right after each 3x3 convolution; 1x1 and 7x7 layers are left out."""
    return [
        norm
        for conv, norm in pairwise(net.modules())
        if isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and isinstance(norm, nn.BatchNorm2d)
    ]


def responses(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    """The standard deviation of each 3x3 layer's output, in the order in which the layers run.

    An output is taken after its batch normalization and before the ReLU or the addition that
    follows (Sec. 4.2). `batches` are inputs (N, 3, H, W) and labels (N,), on the network's device.
    A CIFAR network of 6n+2 layers has 6n+1 responses. The network is left as it was.

    Raises ValueError where there is no image or no 3x3 layer.
    """
    # Choice: the paper does not say on which images, with which batch-norm statistics, or over what
    # the deviation is taken. The images are those of the test set without augmentation, the
    # statistics those of inference, and one deviation is over all images, channels and positions.
    layers = three_by_three(net)
    if not layers:
        raise ValueError("the network has no 3x3 convolution followed by batch normalization")
    measured: dict[nn.Module, Moments] = {}

    def measure(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        measured[layer] = measured.get(layer, Moments()) + moments(output)

    was_training = [(module, module.training) for module in net.modules()]
    handles = [layer.register_forward_hook(measure) for layer in layers]
    net.eval()
    try:
        with torch.inference_mode():
            for inputs, _ in batches:
                net(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in was_training:
            module.training = mode
    if not measured:
        raise ValueError("responses need at least one batch of images")
    return [layer.std for layer in measured.values()]


@dataclass(frozen=True)
class Series:
    """The responses of one network, to be drawn."""

    label: str
    depth: int  # networks of one depth have one colour
    plain: bool  # dashed; a residual network is solid
    values: Sequence[float]


def draw_responses(original: Axes, ordered: Axes, series: Sequence[Series]) -> None:
    """Fig. 7: responses in the order of the layers, and the same from large to small."""
    colours = palette(str(one.depth) for one in series)
    panels = ((original, "layer index (original order)"), (ordered, "layer index (sorted by size)"))
    for axes, name in panels:
        for one in series:
            values = sorted(one.values, reverse=True) if axes is ordered else one.values
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=colours[str(one.depth)],
                linestyle=(0, (4, 1.5)) if one.plain else "solid",
                linewidth=1.2,
                label=one.label,
            )
        bare(axes)
        longest = max((len(one.values) for one in series), default=1)
        axes.set(xlabel=name, ylabel="standard deviation", xlim=(0, longest + 1))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = original.legend(frameon=False, ncols=2, fontsize=9, loc="upper right")
    for text in legend.get_texts():
        text.set_parse_math(False)


def measured(trained: Trained, data: Data, how: ComputeConfig) -> list[float]:
    """The responses of a trained network on the headline's images, as they are."""
    device = torch.device(how.device)
    images = data.split(data.headline)
    if isinstance(images, Photographs):
        raise ValueError(
            f"responses are measured on small pictures, and {trained.network} takes photographs"
        )
    check_size(trained, images, data.name)
    batches = evaluation_batches(images.to(device), trained.preprocessing.to(device))
    with how.applied(), how.autocast():
        found = responses(trained.net, batches)
    if not all(map(isfinite, found)):
        layer = next(n for n, value in enumerate(found, start=1) if not isfinite(value))
        raise NotFinite(f"{trained.network} has {WORDS} in its responses, first of layer {layer}")
    return found


def draw_figure(values: dict[str, list[float]], stem: Path) -> list[Path]:
    """Fig. 7 of these networks, by name: STEM.png and STEM.svg."""
    page = Figure(figsize=(7.2, 6.0), layout="constrained")
    series = []
    for name, some in values.items():
        spec = model_spec(name)
        series.append(Series(name, spec.depth, spec.option == "plain", some))
    original, ordered = page.subplots(2, 1)
    draw_responses(original, ordered, series)
    return save(page, stem)
