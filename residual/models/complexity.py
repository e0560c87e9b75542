"""What a network costs: parameters and multiply-adds, layer by layer (Tables 1 and 6)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from residual.models.blocks import Pad
from residual.models.resnet import build

KINDS = {
    nn.BatchNorm2d: "batch norm",
    nn.Linear: "fc",
    nn.MaxPool2d: "max pool",
    nn.AvgPool2d: "average pool",
    nn.LocalResponseNorm: "local response norm",
    nn.AdaptiveAvgPool2d: "average pool",
    nn.Identity: "identity",
    Pad: "zero pad",
    nn.ZeroPad2d: "zero pad",
}
NO_LAYER = (nn.ReLU, nn.Flatten, nn.Dropout)  # no parameters, no cost, and not counted as layers
NO_NEW_SHAPE = (F.batch_norm, F.relu, Tensor.normal_, Tensor.uniform_, nn.init.kaiming_uniform_)
HEADS = "heads."  # where parameters begin that serve in training alone


@dataclass(frozen=True)
class Layer:
    """One layer as it is reached for one image."""

    name: str  # its path in the state dict
    kind: str
    output: tuple[int, ...]  # (C, H, W), or (classes,)
    parameters: int
    multiply_adds: int


class ShapesOnly(TorchFunctionMode):
    """Leaves out what changes no shape: most of the time that a deep net takes without numbers."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in NO_NEW_SHAPE:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def outline(
    network: str,
    classes: int | None = None,
    make: Callable[[str, int | None], nn.Module] = build,
) -> nn.Module:
    """A network by name with shapes only, on the meta device: made at once, of any depth."""
    with torch.device("meta"), ShapesOnly():
        return make(network, classes)


def kind(module: nn.Module) -> str:
    """A layer in the paper's words."""
    if isinstance(module, nn.Conv2d):
        (height, width), (stride, _) = module.kernel_size, module.stride
        return f"{height}x{width} conv" + (f", stride {stride}" if stride > 1 else "")
    words = (word for cls, word in KINDS.items() if isinstance(module, cls))
    return next(words, type(module).__name__)


def measured(name: str, module: nn.Module, output: Tensor) -> Layer:
    """A layer of this output (1, ...), of which each number is one product with a filter."""
    products = 0
    if isinstance(module, nn.Conv2d | nn.Linear):
        products = output.numel() * module.weight[0].numel()  # a bias is no multiply-add
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Layer(name, kind(module), tuple(output.shape[1:]), parameters, products)


def layers(net: nn.Module, size: int) -> list[Layer]:
    """The layers in the order in which an image (3, size, size) reaches them.

    Only shapes are computed, on the meta device; the network is left as it was.
    """
    reached: list[Layer] = []

    def noting(name: str) -> Any:
        return lambda module, _, output: reached.append(measured(name, module, output))

    hooks = [
        module.register_forward_hook(noting(name))
        for name, module in net.named_modules()
        if not any(module.children()) and not isinstance(module, NO_LAYER)
    ]
    modes = {module: module.training for module in net.modules()}
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    image = torch.empty(1, 3, size, size, device="meta", dtype=next(net.parameters()).dtype)
    try:
        net.eval()
        with torch.no_grad(), ShapesOnly():
            shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
            torch.func.functional_call(net, shapes, (image,))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    return reached


def cost(net: nn.Module, size: int) -> tuple[int, int]:
    """Parameters, and multiply-adds for one image (3, size, size).

    The paper's "FLOPs" (Table 1) are multiply-adds of the convolutions and the fully-connected
    layer; biases, batch normalization and additions are not counted. Nor is what serves in training
    alone.
    """
    parameters = sum(p.numel() for name, p in net.named_parameters() if not name.startswith(HEADS))
    return parameters, sum(layer.multiply_adds for layer in layers(net, size))
