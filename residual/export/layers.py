"""Adds the layers of a network to an ONNX graph as nodes."""

import operator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from residual.export.graph import Graph, Value
from residual.models.baselines.layers import Highway, Maxout, SpatialPyramid
from residual.models.baselines.vgg import WINDOW, Windows
from residual.models.blocks import Pad


class Tracer(fx.Tracer):
    """Traces a network down to its layers, those of torch and these."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        leaves = Pad, Maxout, Highway, SpatialPyramid, Windows
        return isinstance(module, leaves) or bool(super().is_leaf_module(module, name))


def fold(net: nn.Module) -> fx.GraphModule:
    """The network for inference, with batch normalization folded into convolutions in float64.

    `net` stays as it is and shares the weights that are not folded.
    """
    graph = Tracer().trace(net)
    layers = dict(net.named_modules())
    for node in graph.nodes:
        norm = layers.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.args[0]
        conv = layers.get(source.target) if source.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1:
            conv_, norm_ = deepcopy(conv).double().eval(), deepcopy(norm).double().eval()
            layers[source.target] = fuse_conv_bn_eval(conv_, norm_).to(conv.weight.dtype)
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    return fx.GraphModule(layers, graph).eval()


def network(graph: Graph, net: nn.Module, images: Value) -> Value:
    """Images (N, 3, H, W) -> scores (N, classes), with batch normalization folded.

    Raises ValueError for an operation or a layer without nodes here.
    """
    folded = fold(net)
    values: dict[fx.Node, Value] = {}
    for node in folded.graph.nodes:
        x = [values[source] for source in node.all_input_nodes]
        match node.op, node.target:
            case "placeholder", _:
                values[node] = images
            case "call_module", str(name):
                values[node] = layer(graph, folded.get_submodule(name), name, x[0])
            case "call_function", operator.add:
                values[node] = x[0] + x[-1]
            case "call_function", F.relu:
                values[node] = graph("Relu", x[0])
            case "call_function", torch.cat:
                values[node] = graph("Concat", *x, axis=1)
            case "output", _:
                return x[0]
            case _:
                raise ValueError(f"no ONNX node for {node.target}")
    raise AssertionError("a traced network ends with its output")


def layer(graph: Graph, module: nn.Module, name: str, x: Value) -> Value:
    """The nodes of a layer, whose weights are named as in the network.

    Raises ValueError for a layer without nodes here.
    """
    match module:
        case nn.ReLU():
            x = graph("Relu", x)
        case nn.Identity() | nn.Dropout():
            pass
        case nn.Flatten():
            x = graph("Flatten", x)
        case nn.Conv2d():
            pads = [int(side) for side in module.padding] * 2
            weights = parameters(graph, module, name)
            x = graph("Conv", x, *weights, strides=list(module.stride), pads=pads)
        case nn.Linear():
            x = graph("Gemm", x, *parameters(graph, module, name), transB=1)
        case nn.AdaptiveAvgPool2d(output_size=1):
            x = graph("GlobalAveragePool", x)
        case nn.MaxPool2d():
            x = graph("MaxPool", x, **window(module))
        case nn.AvgPool2d():
            x = graph("AveragePool", x, **window(module), count_include_pad=1)
        case nn.ZeroPad2d():
            left, right, top, bottom = module.padding
            x = graph("Pad", x, [0, 0, top, left, 0, 0, bottom, right])
        case nn.LocalResponseNorm():
            sizes = {"size": module.size, "alpha": module.alpha, "beta": module.beta}
            x = graph("LRN", x, **sizes, bias=module.k)
        case nn.PReLU():
            x = graph("PRelu", x, *parameters(graph, module, name, maps=True))
        case _:
            x = special_layer(graph, module, name, x)
    return x


def special_layer(graph: Graph, module: nn.Module, name: str, x: Value) -> Value:
    """The nodes of a layer that few networks have. Raises ValueError for an unknown one."""

    def child(key: str, x: Value) -> Value:
        return layer(graph, module.get_submodule(key), f"{name}.{key}", x)

    match module:
        case nn.GroupNorm():
            x = group_norm(graph, module, name, x)
        case Pad():
            x = graph("MaxPool", x, kernel_shape=[1, 1], strides=[module.stride] * 2)
            x = graph("Pad", x, [0, 0, 0, 0, 0, module.n_new, 0, 0])
        case Maxout():
            pieces = [slice(i, None, module.pieces) for i in range(module.pieces)]
            x = graph("Max", *(x[:, piece] for piece in pieces))
        case Highway():
            changed, gate = graph("Relu", child("transform", x)), graph("Sigmoid", child("gate", x))
            x = changed * gate + x * graph("Sub", np.float32(1), gate)
        case SpatialPyramid():
            x = spatial_pyramid(graph, module, x)
        case Windows():
            # A model has one window: that of the network's own size.
            x = x[:, :, :WINDOW, :WINDOW]
            for key, part in module.head.named_children():
                if isinstance(part, nn.PReLU):  # of a vector
                    x = graph("PRelu", x, *parameters(graph, part, f"{name}.head.{key}"))
                else:
                    x = child(f"head.{key}", x)
        case _:
            raise ValueError(f"no ONNX node for {name}, a {type(module).__name__}")
    return x


def parameters(graph: Graph, module: nn.Module, name: str, maps: bool = False) -> list[Value]:
    """Weight and bias of a layer, as far as it has them; for maps as (C, 1, 1)."""
    arrays = {key: tensor.detach().cpu().numpy() for key, tensor in module.named_parameters()}
    return [
        graph.value(array[:, None, None] if maps else array, f"{name}.{key}")
        for key, array in arrays.items()
    ]


def window(pool: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Any]:
    """The attributes of a pooling layer with square windows."""
    sizes = {"kernel_shape": [pool.kernel_size] * 2, "strides": [pool.stride] * 2}
    return {**sizes, "pads": [pool.padding] * 4, "ceil_mode": int(pool.ceil_mode)}


def group_norm(graph: Graph, module: nn.GroupNorm, name: str, x: Value) -> Value:
    """Maps (N, C, H, W), with each group normalised as an instance with one channel."""
    # Before opset 21, ONNX's GroupNormalization has one scale for each group.
    ones, n = np.ones(module.num_groups, np.float32), module.num_groups
    rows = graph("Reshape", x, [0, n, -1])
    normed = graph("InstanceNormalization", rows, ones, 0 * ones, epsilon=module.eps)
    scale, bias = parameters(graph, module, name, maps=True)
    return graph("Reshape", normed, x.shape(0)) * scale + bias


def spatial_pyramid(graph: Graph, module: SpatialPyramid, x: Value) -> Value:
    """Maps (N, C, H, W) of any size -> (N, C cells), cell by cell."""
    rows, columns = x.shape(2, 3), x.shape(3, 4)

    def edges(side: Value, n: int) -> list[tuple[Value, Value]]:
        return [(side * i / n, (side * (i + 1) + (n - 1)) / n) for i in range(n)]

    def cell(down: tuple[Value, Value], across: tuple[Value, Value]) -> Value:
        corners = [graph("Concat", *pair, axis=0) for pair in zip(down, across, strict=True)]
        return graph("ReduceMax", graph("Slice", x, *corners, [2, 3]), [2, 3], keepdims=1)

    grids = []
    for n in module.levels:
        cells = [cell(down, across) for down in edges(rows, n) for across in edges(columns, n)]
        grids.append(graph("Flatten", graph("Concat", *cells, axis=3) if n > 1 else cells[0]))
    return graph("Concat", *grids, axis=1)
