"""A trained detector as an ONNX model: a picture in, boxes with scores and labels out."""

# The nodes are those of detection/inference.py, in its order, with its arithmetic in float32.

from collections import OrderedDict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from residual.export.graph import DOUBLE, FLOAT, INT64, UINT8, Graph, Tensors, Value
from residual.export.layers import network, of_layer
from residual.export.preprocess import resized
from residual.tasks.detection.boxes import MAX_LOG_SCALE, PROPOSAL_NMS, STRIDE, base_anchors
from residual.tasks.detection.faster_rcnn import FasterRCNN
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.losses import BOX_STD
from residual.tasks.detection.recipe import Recipe, Testing

PICTURE = "image"
FOUND: Tensors = {
    "boxes": (FLOAT, ["found", 4]),
    "scores": (FLOAT, ["found"]),
    "labels": (INT64, ["found"]),
}
STEPS: Tensors = {  # on the way there
    "objectness": (FLOAT, ["anchors", 2]),
    "anchor_shifts": (FLOAT, ["anchors", 4]),
    "candidates": (FLOAT, ["candidates", 4]),
    "ahead": (FLOAT, ["candidates"]),
    "regions": (FLOAT, ["regions", 4]),
    "probabilities": (FLOAT, ["regions", "classes and background"]),
    "class_boxes": (FLOAT, ["regions", "classes", 4]),
}


def model(trained: TrainedDetector, testing: Testing) -> onnx.ModelProto:
    """`image` (1, height, width, 3) uint8, in RGB, of any size -> `boxes` (N, 4) in its pixels,
    `scores` (N,) and `labels` (N,), the best first; N may be 0."""
    made = grown(trained, testing).model(given(), FOUND)
    onnx.checker.check_model(made)
    return made


def in_steps(
    trained: TrainedDetector, testing: Testing
) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    """The same for the check, with the steps on the way as outputs; its weights are apart."""
    graph = grown(trained, testing)
    made = graph.model(given(), {**FOUND, **STEPS}, apart=True)
    return made.SerializeToString(), graph.large


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def given() -> Tensors:
    return {PICTURE: (UINT8, [1, "height", "width", 3])}


def grown(trained: TrainedDetector, testing: Testing) -> Graph:
    """All nodes. Raises ValueError for a layer that is not known in ONNX."""
    graph, net, recipe = Graph(), trained.net, trained.recipe
    image = Value(graph, PICTURE)
    rows, columns = fitted(graph, image, recipe.shorter, recipe.longest)
    pixels = resized(graph, image, rows, columns)
    mean, std = (
        each.float().numpy() for each in (trained.preprocessing.mean, trained.preprocessing.std)
    )
    maps = network(graph, net.shared, (pixels.to(FLOAT) / np.float32(255) - mean) / std)
    limits = graph("Concat", columns, rows, columns, rows, axis=0)  # (4,), of a box in the picture
    border = limits.to(FLOAT)
    told = proposing(graph, net, maps)
    boxes, ahead = best_first(graph, told, anchors(graph, maps, recipe), testing.candidates)
    candidates = clipped(graph, boxes, border)
    sides = graph("Gather", image.shape(1, 3), [1, 0, 1, 0])
    factors = (limits.to(DOUBLE) / sides.to(DOUBLE)).to(FLOAT)
    least = factors[:2,] * np.float32(recipe.smallest)
    regions = apart(graph, candidates, ahead, testing.proposals, least)
    probabilities, boxes = judged(graph, net, maps, regions, border)
    own, scores, labels = chosen(graph, probabilities, boxes, testing)
    steps = *told, candidates, ahead, regions, probabilities, boxes
    named = dict(zip(STEPS, steps, strict=True))
    named |= {"boxes": own / factors, "scores": scores, "labels": labels}
    for name, value in named.items():
        graph("Identity", value)
        graph.nodes[-1].output[0] = name
    return graph


def fitted(graph: Graph, image: Value, shorter: int, longest: int) -> list[Value]:
    """The height and width, int64 (1,), of a detector's input: `loader.resized_size`."""
    sides = image.shape(1, 3)
    least, most = (graph(kind, sides, keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
    wanted, capped = sides * shorter / least, sides * longest / most
    long = graph("Greater", graph("ReduceMax", wanted, keepdims=1), [longest])
    size = graph("Max", graph("Where", long, capped, wanted), [STRIDE])
    return graph.several("Split", 2, size, axis=0, num_outputs=2)


def proposing(graph: Graph, net: FasterRCNN, maps: Value) -> tuple[Value, Value]:
    """Maps (1, C, H, W) -> scores (H W A, 2) and shifts (H W A, 4)."""
    own = net.proposing
    x = graph("Relu", of_layer(graph, own.conv, "proposing.conv", maps))
    scores, shifts = (
        of_layer(graph, layer, f"proposing.{name}", x)
        for name, layer in (("score", own.score), ("shift", own.shift))
    )
    by_place = (graph("Transpose", each, perm=[0, 2, 3, 1]) for each in (scores, shifts))
    first, second = by_place
    return graph("Reshape", first, [-1, 2]), graph("Reshape", second, [-1, 4])


def anchors(graph: Graph, maps: Value, recipe: Recipe) -> Value:
    """Those of a map (1, C, H, W) of any size: (H W A, 4), place by place."""

    def middles(axis: int, among: NDArray[np.float32]) -> Value:
        count = graph("Range", 0, graph("Squeeze", maps.shape(axis, axis + 1)), 1)
        return (
            graph("Reshape", (count.to(FLOAT) + np.float32(0.5)) * np.float32(STRIDE), [-1, 1])
            * among
        )

    x, y = middles(3, floats(1, 0, 1, 0)), middles(2, floats(0, 1, 0, 1))
    places = graph("Unsqueeze", y, [1]) + x  # (H, W, 4)
    return graph(
        "Reshape", graph("Unsqueeze", places, [2]) + base_anchors(recipe.scales).numpy(), [-1, 4]
    )


def decoded(graph: Graph, shifts: Value, boxes: Value) -> Value:
    """Shifts (..., 4) and the boxes (..., 4) that they are seen from -> boxes (..., 4)."""

    def halves(value: Value) -> list[Value]:
        return graph.several("Split", 2, value, axis=-1, num_outputs=2)

    (corner, end), (moved, grown) = halves(boxes), halves(shifts)
    size = end - corner
    centre = corner + size / np.float32(2) + moved * size
    half = size * graph("Exp", graph("Min", grown, np.float32(MAX_LOG_SCALE))) / np.float32(2)
    return graph("Concat", centre - half, centre + half, axis=-1)


def clipped(graph: Graph, boxes: Value, limits: Value) -> Value:
    """Boxes (..., 4), cut off at the border of a picture: limits (4,)."""
    return graph("Min", graph("Max", boxes, np.float32(0)), limits)


def best_first(graph: Graph, told: tuple[Value, Value], around: Value, most: int) -> list[Value]:
    """Scores (A, 2), shifts (A, 4) and anchors (A, 4) -> the best anchors' boxes (K, 4), and by how
    much each is ahead as an object (K,)."""
    scores, shifts = told
    ahead = graph("Squeeze", scores[:, 1:] - scores[:, :1], [1])
    count = graph("Min", ahead.shape(0), [most])
    best, which = graph.several("TopK", 2, ahead, count, axis=0)
    moved, before = (graph("Gather", each, which, axis=0) for each in (shifts, around))
    return [decoded(graph, moved, before), best]


def apart(graph: Graph, boxes: Value, ahead: Value, most: int, least: Value) -> Value:
    """Of boxes (K, 4) and what they are ahead by (K,), the regions (P, 4) of at least these sides
    (2,)."""
    beyond = boxes[:, 2:] - boxes[:, :2] - least
    large = graph("GreaterOrEqual", graph("ReduceMin", beyond, [1], keepdims=0), np.float32(0))
    boxes, ahead = (graph("Compress", each, large, axis=0) for each in (boxes, ahead))
    one, scored = graph("Unsqueeze", boxes, [0]), graph("Unsqueeze", ahead, [0, 1])
    stay = graph("NonMaxSuppression", one, scored, [most], floats(PROPOSAL_NMS))
    return graph("Gather", boxes, graph("Squeeze", stay[:, 2:], [1]), axis=0)


def pooled(graph: Graph, net: FasterRCNN, maps: Value, regions: Value) -> Value:
    """A map (1, C, H, W) and regions (R, 4) -> (R, C, bins, bins)."""
    scale = 1 / STRIDE
    if net.recipe.pooling == "pool":  # ends as in FasterRCNN.pool, behind the picture's number, 0
        rows = graph("Pad", regions, [0, 1, 0, 0]) - floats(0, 0, 0, 1, 1)
        return graph("MaxRoiPool", maps, rows, pooled_shape=[net.bins] * 2, spatial_scale=scale)
    first = graph("Expand", [0], regions.shape(0, 1))
    how: dict[str, Any] = {"output_height": net.bins, "output_width": net.bins, "sampling_ratio": 2}
    how |= {"spatial_scale": scale, "coordinate_transformation_mode": "half_pixel"}
    return graph("RoiAlign", maps, regions, first, **how)


def by_matrices(head: nn.Sequential) -> nn.Sequential:
    """VGG's layers fc6 and fc7, which are convolutions over a region's whole map, as products."""
    # For a convolution, ONNX Runtime reads 400 MB of weights anew for each region: with VGG-16 at
    # 600x800 pixels, 10.5 s for a picture on two cores instead of 2.5.
    parts = OrderedDict(head.named_children())
    for name in (name for name in parts if name.startswith("fc")):
        conv, *rest = parts[name].children()
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        layer = nn.Linear(conv.weight[0].numel(), conv.out_channels, device="meta")
        layer.weight, layer.bias = nn.Parameter(conv.weight.flatten(1)), nn.Parameter(conv.bias)
        parts[name] = nn.Sequential(nn.Flatten(), layer, *rest)
    return nn.Sequential(parts)


def judged(
    graph: Graph, net: FasterRCNN, maps: Value, regions: Value, limits: Value
) -> tuple[Value, Value]:
    """Probabilities (R, classes + 1), and a box for each class (R, classes, 4)."""
    # The whole picture is looked at, too, so that there is something where no region remains.
    whole = graph("Unsqueeze", limits * floats(0, 0, 1, 1), [0])
    maps_of_each = pooled(graph, net, maps, graph("Concat", regions, whole, axis=0))
    all_ = network(graph, by_matrices(net.head), maps_of_each)
    vectors = all_[:-1,]
    if net.recipe.context:
        beside = graph("Expand", all_[-1:,], graph("Concat", regions.shape(0, 1), [1], axis=0))
        vectors = graph("Concat", vectors, beside, axis=1)
    scores = of_layer(graph, net.score, "score", vectors)
    shifts = of_layer(graph, net.shift, "shift", vectors)
    moved = graph("Reshape", shifts, [-1, net.classes, 4]) * floats(*BOX_STD)
    boxes = decoded(graph, moved, graph("Unsqueeze", regions, [1]))
    return graph("Softmax", scores, axis=1), clipped(graph, boxes, limits)


def chosen(
    graph: Graph, probabilities: Value, boxes: Value, testing: Testing
) -> tuple[Value, Value, Value]:
    """Of (R, classes + 1) and (R, classes, 4) what counts as found: boxes (N, 4), scores (N,) and
    labels (N,), the best first."""
    by_class = graph("Transpose", boxes, perm=[1, 0, 2])
    scores = graph("Transpose", probabilities[:, 1:], perm=[1, 0])
    side = graph("ReduceMin", by_class[:, :, 2:] - by_class[:, :, :2], [2], keepdims=0)
    there = graph("Greater", side, np.float32(0))  # else it is no box
    scores = graph("Where", there, scores, np.float32(-1))
    # Of each class no more than `most` are taken, for no more are the best of all.
    limits = [testing.most], floats(testing.overlap), floats(testing.least)
    kept = graph("NonMaxSuppression", by_class, graph("Unsqueeze", scores, [1]), *limits)
    places = graph("Gather", kept, [0, 2], axis=1)  # (N, 2): class and region
    score = graph("GatherND", scores, places)
    best, order = graph.several("TopK", 2, score, graph("Min", score.shape(0), [testing.most]))
    final = graph("Gather", places, order, axis=0)
    labels = graph("Squeeze", final[:, :1], [1])
    return graph("GatherND", by_class, final), best, labels
