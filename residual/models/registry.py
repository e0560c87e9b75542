"""Every network by name: those of the paper, and those of Tables 3 to 6 that it compares with."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from residual.models import complexity, resnet
from residual.models.baselines.bn_inception import bn_inception
from residual.models.baselines.googlenet import googlenet
from residual.models.baselines.highway import highway
from residual.models.baselines.maxout_fitnet import fitnet, maxout
from residual.models.baselines.nin_dsn import dsn, nin
from residual.models.baselines.prelu_net import prelu_net
from residual.models.baselines.vgg import vgg
from residual.models.resnet import Spec


@dataclass(frozen=True)
class Baseline:
    """A compared network."""

    layers: int  # with weights, one after another
    pixels: int  # on a side of its input
    make: Callable[[int], nn.Module]  # of so many classes
    pixel_range: int = 1  # 255: its published start and rates are for pixels of 0 to 255


BASELINES = {
    "vgg16": Baseline(16, 224, partial(vgg, 16), 255),
    "vgg19": Baseline(19, 224, partial(vgg, 19), 255),
    "googlenet": Baseline(22, 224, googlenet, 255),
    "bn-inception": Baseline(34, 224, bn_inception),
    "prelu-net-A": Baseline(19, 224, partial(prelu_net, "A"), 255),
    "prelu-net-B": Baseline(22, 224, partial(prelu_net, "B"), 255),
    "prelu-net-C": Baseline(22, 224, partial(prelu_net, "C"), 255),
    "maxout": Baseline(5, 32, maxout),
    "nin": Baseline(9, 32, nin),
    "dsn": Baseline(9, 32, dsn),
    "fitnet19": Baseline(19, 32, fitnet),
    "highway19": Baseline(19, 32, partial(highway, 19)),
    "highway32": Baseline(32, 32, partial(highway, 32)),
}
NETWORKS = (*resnet.NETWORKS, *BASELINES)


def specify(name: str) -> Spec:
    """Read a network's name. Raises ValueError where there is no such network."""
    if name not in BASELINES:
        return resnet.specify(name, NETWORKS)
    rival = BASELINES[name]
    classes = 1000 if rival.pixels == 224 else 10
    range_ = rival.pixel_range
    return Spec(name, "rival", rival.layers, "", "", rival.pixels, classes, range_)


def build(name: str, classes: int | None = None) -> nn.Module:
    """A fresh network by name, with the published number of classes or another.

    Images (N, 3, H, W) -> scores (N, classes); some give more than one tensor of scores while they
    learn. Its weights are drawn from torch's generator. Raises ValueError for an unknown name.
    """
    if name not in BASELINES:
        return resnet.build(name, classes)
    return BASELINES[name].make(specify(name).classes if classes is None else classes)


def source(name: str) -> str:
    """The text of the file that makes a compared network."""
    make = BASELINES[name].make
    return inspect.getsource(sys.modules[getattr(make, "func", make).__module__])


def outputs(net: nn.Module) -> int:
    """How many classes a network tells apart: the biases of its last layer."""
    *_, last = net.parameters()
    return len(last)


def classifiers(network: str) -> set[str]:
    """The weights and biases whose number depends on the classes: those of the last layer, and of
    heads that training alone has."""
    few, more = (outline(network, classes).state_dict() for classes in (2, 3))
    return {name for name, tensor in few.items() if tensor.shape != more[name].shape}


def check_input(network: str, size: int, training: bool = False) -> None:
    """Raises ValueError where images of size x size are too small for a network."""
    if size == specify(network).input_size:
        return
    net = outline(network, 2).train(training)
    try:
        with torch.no_grad(), complexity.ShapesOnly():
            net(torch.empty(2, 3, size, size, device="meta"))
    except RuntimeError:
        raise ValueError(
            f"{network} cannot {'learn from' if training else 'look at'} pictures of {size}x{size} "
            f"pixels, which are too small for its layers; its own are "
            f"{specify(network).input_size}x{specify(network).input_size}"
        ) from None


def outline(network: str, classes: int | None = None) -> nn.Module:
    """A network by name with shapes only, on the meta device: made at once, of any depth."""
    return complexity.outline(network, classes, build)
