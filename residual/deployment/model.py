"""A trained network as an ONNX model: pictures in, probabilities out."""

import onnx

from residual.deployment.graph import FLOAT, UINT8, Graph, Value, network
from residual.deployment.pixels import prepared
from residual.runs.loading import Trained

PICTURE, INPUT, OUTPUT = "image", "input", "probabilities"


def model(trained: Trained, inside: bool) -> onnx.ModelProto:
    """With the preprocessing inside: `image` (batch, height, width, 3) uint8, in RGB, of any size.

    With it outside: `input` (batch, 3, height, width) float32, preprocessed, of any size that the
    network can look at. Out come `probabilities` (batch, classes) either way.
    """
    graph = Graph()
    if inside:
        given = Value(graph, PICTURE)
        kind: tuple[int, list[int | str]] = (UINT8, ["batch", "height", "width", 3])
        scores = network(graph, trained.net, prepared(graph, given, trained.preprocessing))
    else:
        given = Value(graph, INPUT)
        kind = (FLOAT, ["batch", 3, "height", "width"])
        scores = network(graph, trained.net, given)
    graph("Softmax", scores, axis=1)
    graph.nodes[-1].output[0] = OUTPUT
    classes = int(trained.net.get_parameter("fc.bias").shape[0])
    return graph.model({given.name: kind}, (OUTPUT, ["batch", classes]))
