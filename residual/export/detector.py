"""Builds the ONNX graph of a detector: a picture in, boxes with scores and labels out.

Its nodes follow detection/inference.py, in float32.
"""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from torch import nn

from residual.export.graph import DOUBLE, FLOAT, INT64, UINT8, Graph, Tensors, Value
from residual.export.layers import layer, network
from residual.export.preprocess import resize
from residual.tasks.detection.boxes import MAX_LOG_SCALE, PROPOSAL_NMS, STRIDE, base_anchors
from residual.tasks.detection.faster_rcnn import FasterRCNN
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.losses import BOX_STD
from residual.tasks.detection.recipe import Testing

PICTURE = "image"
INPUTS: Tensors = {PICTURE: (UINT8, [1, "height", "width", 3])}
OUTPUTS: Tensors = {
    "boxes": (FLOAT, ["found", 4]),
    "scores": (FLOAT, ["found"]),
    "labels": (INT64, ["found"]),
}
STEPS: Tensors = {  # intermediate results, outputs of a model that is compared
    "objectness": (FLOAT, ["anchors", 2]),
    "anchor_shifts": (FLOAT, ["anchors", 4]),
    "candidates": (FLOAT, ["candidates", 4]),
    "ahead": (FLOAT, ["candidates"]),  # score as an object less score as background
    "regions": (FLOAT, ["regions", 4]),
    "probabilities": (FLOAT, ["regions", "classes and background"]),
    "class_boxes": (FLOAT, ["regions", "classes", 4]),
}


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def detector_graph(trained: TrainedDetector, testing: Testing) -> Graph:
    """`image` (1, height, width, 3) uint8, in RGB, of any size -> `boxes` (N, 4) in its pixels,
    `scores` (N,) and `labels` (N,), sorted by score; N may be 0.

    Raises ValueError for a layer without ONNX nodes.
    """
    graph, net, recipe, view = Graph(), trained.net, trained.recipe, trained.preprocessing
    image = Value(graph, PICTURE)
    rows, columns = fit(graph, image, recipe.shorter, recipe.longest)
    pixels = resize(graph, image, rows, columns).to(FLOAT) / np.float32(255)
    normalized = (pixels - view.mean.float().numpy()) / view.std.float().numpy()
    maps = network(graph, net.shared, normalized)
    limits = graph("Concat", columns, rows, columns, rows, axis=0)  # (4,), of a box
    border = limits.to(FLOAT)
    objectness, shifts = propose(graph, net, maps)
    priors = anchors(graph, maps, recipe.scales)
    boxes, ahead = top_boxes(graph, objectness, shifts, priors, testing.candidates)
    candidates = clip(graph, boxes, border)
    sides = graph("Gather", image.shape(1, 3), [1, 0, 1, 0])
    factors = (limits.to(DOUBLE) / sides.to(DOUBLE)).to(FLOAT)
    smallest = factors[:2,] * np.float32(recipe.smallest)
    regions = suppress(graph, candidates, ahead, testing.proposals, smallest)
    probabilities, class_boxes = classify(graph, net, maps, regions, border)
    final, scores, labels = select(graph, probabilities, class_boxes, testing)
    steps = objectness, shifts, candidates, ahead, regions, probabilities, class_boxes
    outputs = final / factors, scores, labels
    for name, value in zip([*STEPS, *OUTPUTS], [*steps, *outputs], strict=True):
        graph("Identity", value)
        graph.output(name)
    return graph


def fit(graph: Graph, image: Value, shorter: int, longest: int) -> list[Value]:
    """Height and width, int64 (1,), to which a picture is resized, as in training."""
    sides = image.shape(1, 3)
    least, most = (graph(kind, sides, keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
    scaled, capped = sides * shorter / least, sides * longest / most
    too_long = graph("Greater", graph("ReduceMax", scaled, keepdims=1), [longest])
    size = graph("Max", graph("Where", too_long, capped, scaled), [STRIDE])
    return graph.split("Split", 2, size, axis=0, num_outputs=2)


def propose(graph: Graph, net: FasterRCNN, maps: Value) -> tuple[Value, Value]:
    """Maps (1, C, H, W) -> scores (H W A, 2) and shifts (H W A, 4)."""
    x = graph("Relu", layer(graph, net.proposing.conv, "proposing.conv", maps))
    score = layer(graph, net.proposing.score, "proposing.score", x)
    shift = layer(graph, net.proposing.shift, "proposing.shift", x)
    score, shift = (graph("Transpose", output, perm=[0, 2, 3, 1]) for output in (score, shift))
    return graph("Reshape", score, [-1, 2]), graph("Reshape", shift, [-1, 4])


def anchors(graph: Graph, maps: Value, scales: tuple[int, ...]) -> Value:
    """The anchors (H W A, 4) of a map (1, C, H, W) of any size, place by place."""

    def centres(axis: int, coordinates: NDArray[np.float32]) -> Value:
        count = graph("Range", 0, graph("Squeeze", maps.shape(axis, axis + 1)), 1)
        centre = (count.to(FLOAT) + np.float32(0.5)) * np.float32(STRIDE)
        return graph("Reshape", centre, [-1, 1]) * coordinates

    x, y = centres(3, floats(1, 0, 1, 0)), centres(2, floats(0, 1, 0, 1))
    places = graph("Unsqueeze", y, [1]) + x  # (H, W, 4)
    boxes = graph("Unsqueeze", places, [2]) + base_anchors(scales).numpy()
    return graph("Reshape", boxes, [-1, 4])


def decode(graph: Graph, shifts: Value, anchors: Value) -> Value:
    """Shifts (..., 4) relative to anchors (..., 4) -> boxes (..., 4)."""

    def halves(value: Value) -> list[Value]:
        return graph.split("Split", 2, value, axis=-1, num_outputs=2)

    (corner, end), (moved, grown) = halves(anchors), halves(shifts)
    size = end - corner
    centre = corner + size / np.float32(2) + moved * size
    half = size * graph("Exp", graph("Min", grown, np.float32(MAX_LOG_SCALE))) / np.float32(2)
    return graph("Concat", centre - half, centre + half, axis=-1)


def clip(graph: Graph, boxes: Value, limits: Value) -> Value:
    """Boxes (..., 4), clipped to a picture with limits (4,)."""
    return graph("Min", graph("Max", boxes, np.float32(0)), limits)


def top_boxes(
    graph: Graph, scores: Value, shifts: Value, anchors: Value, n: int
) -> tuple[Value, Value]:
    """Scores (A, 2), shifts (A, 4) and anchors (A, 4) -> boxes (K, 4) of the best anchors, and how
    much higher their score is as an object than as background (K,)."""
    ahead = graph("Squeeze", scores[:, 1:] - scores[:, :1], [1])
    best, places = graph.split("TopK", 2, ahead, graph("Min", ahead.shape(0), [n]), axis=0)
    moved, around = (graph("Gather", value, places, axis=0) for value in (shifts, anchors))
    return decode(graph, moved, around), best


def suppress(graph: Graph, boxes: Value, ahead: Value, n: int, smallest: Value) -> Value:
    """The proposals (P, 4) among boxes (K, 4): at least this size (2,), by NMS, sorted."""
    excess = boxes[:, 2:] - boxes[:, :2] - smallest
    large = graph("GreaterOrEqual", graph("ReduceMin", excess, [1], keepdims=0), np.float32(0))
    boxes, ahead = (graph("Compress", value, large, axis=0) for value in (boxes, ahead))
    batch = graph("Unsqueeze", boxes, [0]), graph("Unsqueeze", ahead, [0, 1])
    kept = graph("NonMaxSuppression", *batch, [n], floats(PROPOSAL_NMS))
    return graph("Gather", boxes, graph("Squeeze", kept[:, 2:], [1]), axis=0)


def pool(graph: Graph, net: FasterRCNN, maps: Value, regions: Value) -> Value:
    """A map (1, C, H, W) and regions (R, 4) -> (R, C, bins, bins)."""
    scale = 1 / STRIDE
    if net.recipe.pooling == "pool":  # ends as in FasterRCNN.pool, after the picture's number, 0
        rows = graph("Pad", regions, [0, 1, 0, 0]) - floats(0, 0, 0, 1, 1)
        return graph("MaxRoiPool", maps, rows, pooled_shape=[net.bins] * 2, spatial_scale=scale)
    return graph(
        "RoiAlign",
        maps,
        regions,
        graph("Expand", [0], regions.shape(0, 1)),
        output_height=net.bins,
        output_width=net.bins,
        sampling_ratio=2,
        spatial_scale=scale,
        coordinate_transformation_mode="half_pixel",
    )


def linear_head(head: nn.Sequential) -> nn.Sequential:
    """The head with VGG's fc6 and fc7, convolutions over a region's whole map, as linear layers."""
    # For a convolution, ONNX Runtime reads 400 MB of weights anew for each region: with VGG-16 at
    # 600x800 pixels, 10.5 s for a picture on two cores instead of 2.5.
    parts = OrderedDict(head.named_children())
    for name in (name for name in parts if name.startswith("fc")):
        conv, *rest = parts[name].children()
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        linear = nn.Linear(conv.weight[0].numel(), conv.out_channels, device="meta")
        linear.weight, linear.bias = nn.Parameter(conv.weight.flatten(1)), nn.Parameter(conv.bias)
        parts[name] = nn.Sequential(nn.Flatten(), linear, *rest)
    return nn.Sequential(parts)


def classify(
    graph: Graph, net: FasterRCNN, maps: Value, regions: Value, limits: Value
) -> tuple[Value, Value]:
    """Probabilities (R, classes + 1), and a box for each class (R, classes, 4)."""
    # The whole picture is a region, too, so that there is one even without proposals.
    picture = graph("Unsqueeze", limits * floats(0, 0, 1, 1), [0])
    pooled = pool(graph, net, maps, graph("Concat", regions, picture, axis=0))
    outputs = network(graph, linear_head(net.head), pooled)
    vectors = outputs[:-1,]
    if net.recipe.context:
        context = graph("Expand", outputs[-1:,], graph("Concat", regions.shape(0, 1), [1], axis=0))
        vectors = graph("Concat", vectors, context, axis=1)
    scores = layer(graph, net.score, "score", vectors)
    shifts = layer(graph, net.shift, "shift", vectors)
    moved = graph("Reshape", shifts, [-1, net.num_classes, 4]) * floats(*BOX_STD)
    boxes = decode(graph, moved, graph("Unsqueeze", regions, [1]))
    return graph("Softmax", scores, axis=1), clip(graph, boxes, limits)


def select(
    graph: Graph, probabilities: Value, boxes: Value, testing: Testing
) -> tuple[Value, Value, Value]:
    """Probabilities (R, classes + 1) and boxes (R, classes, 4) -> detections: boxes (N, 4), scores
    (N,) and labels (N,), sorted by score."""
    by_class = graph("Transpose", boxes, perm=[1, 0, 2])
    scores = graph("Transpose", probabilities[:, 1:], perm=[1, 0])
    side = graph("ReduceMin", by_class[:, :, 2:] - by_class[:, :, :2], [2], keepdims=0)
    scores = graph("Where", graph("Greater", side, np.float32(0)), scores, np.float32(-1))
    # Of each class at most so many boxes are kept as of all classes.
    limits = [testing.most], floats(testing.overlap), floats(testing.least)
    kept = graph("NonMaxSuppression", by_class, graph("Unsqueeze", scores, [1]), *limits)
    places = graph("Gather", kept, [0, 2], axis=1)  # (N, 2): class and region
    score = graph("GatherND", scores, places)
    best, order = graph.split("TopK", 2, score, graph("Min", score.shape(0), [testing.most]))
    final = graph("Gather", places, order, axis=0)
    labels = graph("Squeeze", final[:, :1], [1])
    return graph("GatherND", by_class, final), best, labels
