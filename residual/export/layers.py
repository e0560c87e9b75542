"""A network as nodes of an ONNX graph, layer by layer."""

import operator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from residual.export.graph import Graph, Value
from residual.models.baselines.layers import Highway, Maxout, SpatialPyramid
from residual.models.baselines.vgg import WINDOW, Windows
from residual.models.blocks import Pad

# Modules that are layers, though their forward passes could be followed further.
LAYERS = (Pad, Maxout, Highway, SpatialPyramid, Windows)


class Tracer(fx.Tracer):
    """Follows a network's forward pass down to its layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, LAYERS) or bool(super().is_leaf_module(module, name))


def folded(net: nn.Module) -> fx.GraphModule:
    """A network for use alone; each normalization that follows a convolution is part of it.

    The given one is left as it was, and what is not folded shares its weights.
    """
    graph = Tracer().trace(net)
    layers = dict(net.named_modules())
    for node in graph.nodes:
        norm = layers.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = layers.get(before.target) if before.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(before.users) == 1:
            layers[before.target] = fused(conv, norm)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    return fx.GraphModule(layers, graph).eval()


def fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution in place of two layers, computed in float64."""
    both = fuse_conv_bn_eval(deepcopy(conv).double().eval(), deepcopy(norm).double().eval())
    return both.to(conv.weight.dtype)


ONE = np.float32(1)
PLAIN = {nn.ReLU: "Relu", nn.Identity: "Identity", nn.Flatten: "Flatten", nn.Dropout: "Identity"}


def network(graph: Graph, net: nn.Module, images: Value) -> Value:
    """Images (N, 3, H, W) -> scores (N, classes), with batch normalization folded.

    Raises ValueError for a layer that is not known here.
    """
    alone = folded(net)
    values: dict[fx.Node, Value] = {}
    for node in alone.graph.nodes:
        given = [values[each] for each in node.all_input_nodes]
        match node.op:
            case "placeholder":
                values[node] = images
            case "call_module":
                layer = alone.get_submodule(node.target)
                values[node] = of_layer(graph, layer, node.target, given[0])
            case "call_function" if node.target is operator.add:
                values[node] = given[0] + given[-1]
            case "call_function" if node.target is F.relu:
                values[node] = graph("Relu", given[0])
            case "call_function" if node.target is torch.cat:
                values[node] = graph("Concat", *given, axis=1)
            case "output":
                return given[0]
            case _:
                raise ValueError(f"no ONNX is known for {node.target}")
    raise AssertionError("a traced network ends with its output")


def of_layer(graph: Graph, layer: nn.Module, name: str, x: Value) -> Value:
    """A layer's nodes; its weights are called as in the network."""
    if type(layer) in PLAIN:
        return graph(PLAIN[type(layer)], x)
    match layer:
        case nn.Conv2d() | nn.Linear():
            both = [weight(graph, layer, name, each) for each in ("weight", "bias")]
            there = [each for each in both if each is not None]
            if isinstance(layer, nn.Linear):
                return graph("Gemm", x, *there, transB=1)
            pads = [int(side) for side in layer.padding] * 2
            return graph("Conv", x, *there, strides=list(layer.stride), pads=pads)
        case nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d(output_size=1):
            return pooled(graph, layer, x)
        case nn.ZeroPad2d():
            left, right, top, bottom = layer.padding
            return graph("Pad", x, [0, 0, top, left, 0, 0, bottom, right])
    return special(graph, layer, name, x)


def special(graph: Graph, layer: nn.Module, name: str, x: Value) -> Value:
    """A layer that few networks have. Raises ValueError for one that is not known here."""

    def part(which: str, given: Value) -> Value:
        return of_layer(graph, layer.get_submodule(which), f"{name}.{which}", given)

    match layer:
        case Pad():
            few = graph("MaxPool", x, kernel_shape=[1, 1], strides=[layer.stride] * 2)
            x = graph("Pad", few, [0, 0, 0, 0, 0, layer.n_new, 0, 0])
        case nn.LocalResponseNorm():
            sizes = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta}
            x = graph("LRN", x, **sizes, bias=layer.k)
        case nn.GroupNorm():
            x = group_normalised(graph, layer, name, x)
        case nn.PReLU():
            slope = layer.weight.detach().cpu().numpy()[:, None, None]  # of maps (C, H, W)
            x = graph("PRelu", x, graph.value(slope, f"{name}.weight"))
        case Maxout():
            pieces = [slice(i, None, layer.pieces) for i in range(layer.pieces)]
            x = graph("Max", *(x[:, piece] for piece in pieces))
        case Highway():
            changed, gate = graph("Relu", part("transform", x)), graph("Sigmoid", part("gate", x))
            x = changed * gate + x * (graph("Sub", graph.value(ONE), gate))
        case SpatialPyramid():
            x = pyramid(graph, layer, x)
        case Windows():
            # A model has one window: that of the network's own size.
            x = x[:, :, :WINDOW, :WINDOW]
            for which, each in layer.head.named_children():
                if isinstance(each, nn.PReLU):  # of a vector
                    slope = each.weight.detach().cpu().numpy()
                    x = graph("PRelu", x, graph.value(slope, f"{name}.head.{which}.weight"))
                else:
                    x = part(f"head.{which}", x)
        case _:
            raise ValueError(f"no ONNX is known for {name}, a {type(layer).__name__}")
    return x


def weight(graph: Graph, layer: nn.Module, name: str, which: str) -> Value | None:
    """A layer's weights or biases, if it has them."""
    tensor: Tensor | None = getattr(layer, which)
    return None if tensor is None else graph.value(tensor.detach().cpu().numpy(), f"{name}.{which}")


def pooled(
    graph: Graph, layer: nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d, x: Value
) -> Value:
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return graph("GlobalAveragePool", x)
    size, stride, padding = layer.kernel_size, layer.stride, layer.padding
    how: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [stride] * 2}
    how |= {"pads": [padding] * 4, "ceil_mode": int(layer.ceil_mode)}
    if isinstance(layer, nn.MaxPool2d):
        return graph("MaxPool", x, **how)
    return graph("AveragePool", x, **how, count_include_pad=1)


def group_normalised(graph: Graph, layer: nn.GroupNorm, name: str, x: Value) -> Value:
    """Over maps (N, C, H, W); each group is normalised as an instance's one channel."""
    # ONNX has a GroupNormalization, but before opset 21 its scales are those of groups.
    ones, n = np.ones(layer.num_groups, np.float32), layer.num_groups
    rows = graph("Reshape", x, [0, n, -1])
    alone = graph("InstanceNormalization", rows, ones, 0 * ones, epsilon=layer.eps)
    scale, bias = (
        graph.value(each.detach().cpu().numpy()[:, None, None], f"{name}.{which}")
        for which, each in layer.named_parameters()
    )
    return graph("Reshape", alone, x.shape(0)) * scale + bias


def pyramid(graph: Graph, layer: SpatialPyramid, x: Value) -> Value:
    """Over a map of any size, cell by cell."""
    rows, columns = x.shape(2, 3), x.shape(3, 4)

    def edges(side: Value, n: int) -> list[tuple[Value, Value]]:
        return [(side * i / n, (side * (i + 1) + (n - 1)) / n) for i in range(n)]

    def cell(down: tuple[Value, Value], across: tuple[Value, Value]) -> Value:
        corners = [graph("Concat", *pair, axis=0) for pair in zip(down, across, strict=True)]
        return graph("ReduceMax", graph("Slice", x, *corners, [2, 3]), [2, 3], keepdims=1)

    grids = []
    for n in layer.levels:
        cells = [cell(down, across) for down in edges(rows, n) for across in edges(columns, n)]
        grids.append(graph("Flatten", graph("Concat", *cells, axis=3) if n > 1 else cells[0]))
    return graph("Concat", *grids, axis=1)
