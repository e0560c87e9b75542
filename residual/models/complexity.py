"""Parameters and multiply-adds of a network, layer by layer (Tables 1 and 6)."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from residual.models.blocks import Pad

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
UNCOUNTED = (nn.ReLU, nn.Flatten, nn.Dropout)  # not listed as layers
SHAPE_KEEPING = (F.batch_norm, F.relu, Tensor.normal_, Tensor.uniform_, nn.init.kaiming_uniform_)
HEADS = "heads."  # prefix of parameters that serve in training alone


@dataclass(frozen=True)
class Layer:
    """A layer in the forward pass of one image."""

    name: str  # its path in the state dict
    kind: str
    output: tuple[int, ...]  # (C, H, W), or (classes,)
    parameters: int
    multiply_adds: int


class ShapesOnly(TorchFunctionMode):
    """Skips functions that keep their input's shape, which take most of the time of a deep network
    on the meta device."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in SHAPE_KEEPING:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def kind(module: nn.Module) -> str:
    """The kind of a layer, in the paper's words."""
    if isinstance(module, nn.Conv2d):
        (height, width), (stride, _) = module.kernel_size, module.stride
        return f"{height}x{width} conv" + (f", stride {stride}" if stride > 1 else "")
    words = (word for cls, word in KINDS.items() if isinstance(module, cls))
    return next(words, type(module).__name__)


def layers(net: nn.Module, size: int) -> list[Layer]:
    """The layers in the order in which an image (3, size, size) passes them.

    Only shapes are computed, on the meta device; the network is left as it was.
    """
    passed: list[Layer] = []

    def record(name: str, module: nn.Module, _: Any, output: Tensor) -> None:
        products = 0
        if isinstance(module, nn.Conv2d | nn.Linear):  # a bias is no multiply-add
            products = output.numel() * module.weight[0].numel()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        shape = tuple(output.shape[1:])
        passed.append(Layer(name, kind(module), shape, parameters, products))

    hooks = [
        module.register_forward_hook(partial(record, name))
        for name, module in net.named_modules()
        if not any(module.children()) and not isinstance(module, UNCOUNTED)
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
        for handle in hooks:
            handle.remove()
    return passed


def cost(net: nn.Module, size: int) -> tuple[int, int]:
    """Parameters, and multiply-adds for one image (3, size, size).

    The paper's "FLOPs" (Table 1) are the multiply-adds of convolutions and the fully-connected
    layer; biases, batch normalization, additions and auxiliary heads are not counted.
    """
    parameters = sum(p.numel() for name, p in net.named_parameters() if not name.startswith(HEADS))
    return parameters, sum(layer.multiply_adds for layer in layers(net, size))


@dataclass(frozen=True)
class LayerPair:
    """A layer of a network, and its counterpart in another library's network."""

    other: Layer
    layer: Layer

    @property
    def differs(self) -> bool:
        return replace(self.other, name=self.layer.name) != self.layer


def layer_pairs(net: nn.Module, other: nn.Module, size: int) -> list[LayerPair]:
    """The layers with weights and the poolings of two networks, in the order of execution."""
    rows = (
        [row for row in layers(part, size) if row.parameters or "pool" in row.kind]
        for part in (other, net)
    )
    return [LayerPair(*pair) for pair in zip(*rows, strict=True)]
