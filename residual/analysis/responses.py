"""Fig. 7: standard deviations of the responses of a network's 3x3 layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from residual.analysis.curves import palette, style_axes
from residual.data.datasets import Data, ImageFiles
from residual.data.loader import evaluation_batches
from residual.device import NON_FINITE, ComputeConfig, NonFiniteValues
from residual.models.registry import model_spec
from residual.runs.load import Trained
from residual.tasks.classification.checks import check_size
from residual.tasks.classification.inference import evaluation_mode


@dataclass(frozen=True)
class Moments:
    """Count and mean of numbers, and the sum of their squared distances from the mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both parts, without cancellation (Chan, Golub and LeVeque 1979)."""
        count, delta = self.count + other.count, other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.squares + other.squares + delta**2 * self.count * other.count / count,
        )

    @property
    def std(self) -> float:
        return sqrt(self.squares / self.count)


def moments(values: Tensor) -> Moments:
    """The moments of a tensor that is not empty, in float64."""
    variance, mean = torch.var_mean(values.double(), correction=0)
    return Moments(values.numel(), float(mean), float(variance) * values.numel())


def responses(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    """The standard deviation of each 3x3 layer's output, in the order in which the layers run.

    An output is taken after its batch normalization and before the ReLU or the addition that
    follows (Sec. 4.2). `batches` are inputs (N, 3, H, W) and labels (N,), on the network's device.
    A CIFAR network of 6n+2 layers has 6n+1 responses. The network is left as it was.

    Raises ValueError if there is no image or no 3x3 layer.
    """
    # Choice: the paper does not define the images, the batch-norm statistics, or the axes of the
    # standard deviation. We take the test set without augmentation, the statistics of inference,
    # and one deviation over all images, channels and positions.
    layers = [
        norm
        for conv, norm in pairwise(net.modules())
        if isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and isinstance(norm, nn.BatchNorm2d)
    ]
    if not layers:
        raise ValueError("the network has no 3x3 convolution followed by batch normalization")
    outputs: dict[nn.Module, Moments] = {}

    def measure(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[layer] = outputs.get(layer, Moments()) + moments(output)

    handles = [layer.register_forward_hook(measure) for layer in layers]
    try:
        with evaluation_mode([net]):
            for inputs, _ in batches:
                net(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not outputs:
        raise ValueError("responses need at least one batch of images")
    return [output.std for output in outputs.values()]


def measure_responses(trained: Trained, data: Data, config: ComputeConfig) -> list[float]:
    """The responses of a trained network on the test images, without augmentation.

    Raises ValueError for photographs, and NonFiniteValues for a response that is not finite.
    """
    device = torch.device(config.device)
    images = data.split(data.headline)
    if isinstance(images, ImageFiles):
        raise ValueError(
            f"responses are measured on small pictures, and {trained.network} takes photographs"
        )
    check_size(trained, images, data.name)
    batches = evaluation_batches(images.to(device), trained.preprocessing.to(device))
    with config.activate(), config.autocast():
        values = responses(trained.net, batches)
    for layer, value in enumerate(values, start=1):
        if not isfinite(value):
            raise NonFiniteValues(
                f"{trained.network} has {NON_FINITE} in its responses, first of layer {layer}"
            )
    return values


def draw_responses(values: Mapping[str, Sequence[float]]) -> Figure:
    """Fig. 7: responses of networks by name, in the order of the layers and sorted by size.

    Networks of one depth have one colour; plain networks are dashed.
    """
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    original, ordered = figure.subplots(2, 1)
    specs = {name: model_spec(name) for name in values}
    colours = palette(str(spec.depth) for spec in specs.values())
    panels = ((original, "layer index (original order)"), (ordered, "layer index (sorted by size)"))
    for axes, title in panels:
        for name, layers in values.items():
            axes.plot(
                range(1, len(layers) + 1),
                sorted(layers, reverse=True) if axes is ordered else layers,
                color=colours[str(specs[name].depth)],
                linestyle=(0, (4, 1.5)) if specs[name].option == "plain" else "solid",
                linewidth=1.2,
                label=name,
            )
        style_axes(axes)
        longest = max(map(len, values.values()), default=1)
        axes.set(xlabel=title, ylabel="standard deviation", xlim=(0, longest + 1))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    original.legend(frameon=False, ncols=2, fontsize=9, loc="upper right")
    return figure
