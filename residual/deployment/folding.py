"""Batch normalization folded into the convolution before it: the same function, fewer layers."""

from copy import deepcopy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from residual.nets.blocks import Pad
from residual.rivals.parts import Highway, Maxout, SpatialPyramid
from residual.rivals.prelu_net import Windows

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
