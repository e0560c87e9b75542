"""A trained network as an ONNX model: pictures in, probabilities out."""

from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from residual.export.graph import FLOAT, UINT8, Graph, Tensors, Value
from residual.export.layers import network
from residual.export.preprocess import prepared
from residual.models.baselines.vgg import Windows
from residual.models.registry import num_classes
from residual.runs.load import Trained

PICTURE, INPUT, OUTPUT = "image", "input", "probabilities"


def model(trained: Trained, inside: bool) -> onnx.ModelProto:
    """With the preprocessing inside: `image` (batch, height, width, 3) uint8, in RGB, of any size.

    With it outside: `input` (batch, 3, height, width) float32, preprocessed, of any size from the
    network's own up, or of that alone. Out come `probabilities` (batch, classes) either way.
    """
    graph = Graph()
    if inside:
        given: Tensors = {PICTURE: (UINT8, ["batch", "height", "width", 3])}
        images = prepared(graph, Value(graph, PICTURE), trained.preprocessing)
    else:
        sides = trained.preprocessing.size if one_size(trained) else ("height", "width")
        given = {INPUT: (FLOAT, ["batch", 3, *sides])}
        images = Value(graph, INPUT)
    made = graph.model(given, answered(graph, trained, images))
    onnx.checker.check_model(made)
    return made


def larger(trained: Trained) -> list[tuple[int, int]]:
    """Sizes at which a model whose preprocessing is outside is tried, beside the network's own."""
    side = max(trained.preprocessing.size)
    return [(side * 3 // 2, side), (side, side * 5 // 4)]


def one_size(trained: Trained) -> bool:
    """Whether a model is for inputs of the network's own size alone: their whitening has one size,
    or a layer has, or the model holds one window of those that slide over a larger picture."""
    windows = any(isinstance(layer, Windows) for layer in trained.net.modules())
    if trained.preprocessing.whitening is not None or windows:
        return True
    try:
        with torch.inference_mode():
            for height, width in larger(trained):
                trained.net(torch.zeros(1, 3, height, width))
    except RuntimeError:
        return True
    return False


def at_hand(trained: Trained) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """A model for use at once, of inputs of the network's own size, and its weights, apart."""
    # Where sizes are known, ONNX Runtime adds a shortcut in place: 2 % faster.
    graph = Graph()
    wanted = answered(graph, trained, Value(graph, INPUT))
    given: Tensors = {INPUT: (FLOAT, ["batch", 3, *trained.preprocessing.size])}
    return graph.model(given, wanted, apart=True).SerializeToString(), graph.large


def answered(graph: Graph, trained: Trained, images: Value) -> Tensors:
    """The network's nodes, and the output that they end with."""
    graph("Softmax", network(graph, trained.net, images), axis=1)
    graph.nodes[-1].output[0] = OUTPUT
    return {OUTPUT: (FLOAT, ["batch", num_classes(trained.net)])}
