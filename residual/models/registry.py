"""Every network by name: the paper's, and the baselines of Tables 3 to 6."""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import torch
from torch import nn

from residual.models import resnet
from residual.models.baselines.highway import highway
from residual.models.baselines.inception import bn_inception, googlenet
from residual.models.baselines.maxout_fitnet import fitnet, maxout
from residual.models.baselines.nin_dsn import dsn, nin
from residual.models.baselines.vgg import prelu_net, vgg
from residual.models.complexity import LayerPair, ShapesOnly, layer_pairs
from residual.models.resnet import ModelSpec


@dataclass(frozen=True)
class Baseline:
    """A network that the paper compares with."""

    layers: int  # with weights, one after another
    pixels: int  # on a side of its input
    make: Callable[[int], nn.Module]  # takes the number of classes
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


def is_user_class(name: str) -> bool:
    """Whether a network is named by the path of a user's class, module:Class."""
    return ":" in name


def model_spec(name: str) -> ModelSpec:
    """The specification of a network by name, or of a user's class by its path, module:Class. The
    class may say its `input_size`; else it is 32 pixels. Raises ValueError for any other name.
    """
    if is_user_class(name):
        size = getattr(user_class(name), "input_size", 32)
        if type(size) is not int or size < 1:
            raise ValueError(f"input_size of {name} is a number of pixels, like 224, not {size!r}")
        return ModelSpec(name, "user", 0, "", "", size, 1000 if size == 224 else 10)
    if name not in BASELINES:
        return resnet.parse_name(name, NETWORKS)
    baseline = BASELINES[name]
    size, classes = baseline.pixels, 1000 if baseline.pixels == 224 else 10
    return ModelSpec(name, "baseline", baseline.layers, "", "", size, classes, baseline.pixel_range)


def build(name: str, classes: int | None = None) -> nn.Module:
    """A fresh network by name, with the published number of classes or another.

    Images (N, 3, H, W) -> scores (N, classes); some give more than one tensor of scores while they
    learn. Its weights are drawn from torch's generator. Raises ValueError for an unknown name.
    """
    spec = model_spec(name)
    classes = spec.classes if classes is None else classes
    if is_user_class(name):
        kind = user_class(name)
        takes_classes = "num_classes" in inspect.signature(kind).parameters
        return kind(num_classes=classes) if takes_classes else kind()
    return BASELINES[name].make(classes) if name in BASELINES else resnet.resnet(spec, classes)


def user_class(path: str) -> type[nn.Module]:
    """A class of networks by its path, `module:Class`. Raises ValueError."""
    module, _, name = path.partition(":")
    try:
        kind = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the network {path} is a class that is not here: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{path} is no class of networks, which extends torch.nn.Module")
    return kind


def build_meta(name: str, classes: int | None = None) -> nn.Module:
    """A network by name on the meta device: shapes without values. A user's is built with values
    and then moved there."""
    if is_user_class(name):
        with torch.random.fork_rng(devices=[]):
            return build(name, classes).to("meta")
    with torch.device("meta"), ShapesOnly():
        return build(name, classes)


def num_classes(net: nn.Module) -> int:
    """The number of classes that a network scores: the biases of its last layer."""
    *_, last = net.parameters()
    return len(last)


def classifier_parameters(network: str) -> set[str]:
    """The names of parameters whose shape depends on the number of classes: those of the last layer
    and of auxiliary heads."""
    two, three = (build_meta(network, classes).state_dict() for classes in (2, 3))
    return {name for name, tensor in two.items() if tensor.shape != three[name].shape}


def check_input(network: str, size: int, training: bool = False) -> None:
    """Raises ValueError where images of size x size are too small for a network."""
    expected = model_spec(network).input_size
    if size == expected:
        return
    net = build_meta(network, 2).train(training)
    try:
        with torch.no_grad(), ShapesOnly():
            net(torch.empty(2, 3, size, size, device="meta"))
    except RuntimeError:
        raise ValueError(
            f"{network} cannot be {'trained' if training else 'tested'} on {size}x{size} pixels, "
            f"which are too small for its layers; its own are {expected}x{expected}"
        ) from None


def source(name: str) -> str:
    """The code that builds a baseline: its function, and the functions and classes it names."""
    make = getattr(BASELINES[name].make, "func", BASELINES[name].make)
    package = make.__module__.rpartition(".")[0]
    members = inspect.getmembers(sys.modules[make.__module__])
    used = [f for name, f in members if f is make or name in make.__code__.co_names]
    return "\n".join(
        inspect.getsource(f) for f in used if getattr(f, "__module__", "").startswith(package)
    )


def compare_layers(network: str, library: str = "torchvision") -> list[LayerPair]:
    """The layers of a network beside those of another library's network of that name.

    Raises ValueError for another library, or a network that it does not have.
    """
    if library != "torchvision":
        raise ValueError(f"no comparison with {library!r}; there is one with torchvision")
    spec = model_spec(network)
    if spec.family != "imagenet" or spec.option != "B":
        names = ", ".join(f"resnet{depth}" for depth in resnet.ROWS)
        raise ValueError(f"torchvision has no network {spec.name!r}; it has {names}")
    from torchvision.models import get_model

    with torch.device("meta"):
        other = get_model(f"resnet{spec.depth}")
    return layer_pairs(build_meta(spec.name), other, spec.input_size)
