"""What export/detector.py claims: its parts compute what the detector's own do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from residual.export import detector as building
from residual.export.graph import FLOAT, INT64, UINT8, Graph, Value, open_session
from residual.export.layers import network
from residual.tasks.detection import loader
from residual.tasks.detection.faster_rcnn import FasterRCNN
from tests.made_detectors import detector

pytest.importorskip("onnxruntime", reason="needs the extra deploy")


def test_the_graph_fits_pictures_of_all_sizes_as_training_does():
    graph = Graph()
    sizes = building.fit(graph, Value(graph, "image"), 600, 1000)
    wanted = {value.name: (INT64, [1]) for value in sizes}
    made = graph.serialize({"image": (UINT8, [1, "h", "w", 3])}, wanted)
    session = open_session(made, {}, 1)
    draw = np.random.default_rng(0)
    odd = [(1, 1), (1, 5000), (3, 5000), (600, 1000), (600, 1001), (1000, 600), (599, 999)]
    for width, height in [*odd, *draw.integers(1, 3000, (400, 2)).tolist()]:
        pixels = np.zeros((1, height, width, 3), np.uint8)
        rows, columns = (int(side[0]) for side in session.run(None, {"image": pixels}))
        assert (columns, rows) == loader.resized_size((width, height), 600, 1000)


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_regions_are_pooled_as_torchvision_does_also_where_coordinates_lie_between(pooling):
    net: FasterRCNN = detector(pooling=pooling, bins=7).net
    graph = Graph()
    found = building.pool(graph, net, Value(graph, "maps"), Value(graph, "regions"))
    given = {"maps": (FLOAT, [1, 4, "h", "w"]), "regions": (FLOAT, ["n", 4])}
    made = graph.serialize(given, {found.name: (FLOAT, ["n", 4, 7, 7])})
    session = open_session(made, {}, 1)
    torch.manual_seed(0)
    for rows, columns, step in ((1, 1, 1.0), (5, 9, 8.0), (20, 13, 0.1), (30, 30, 1.0)):
        maps = torch.randn(1, 4, rows, columns)
        ends = torch.rand(100, 2, 2) * torch.tensor([columns, rows]) * 16
        ends = (ends / step).round() * step + step % 2  # some lie in the middle of two places
        regions = torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1)
        (answer,) = session.run(None, {"maps": maps.numpy(), "regions": regions.numpy()})
        assert (net.pool(maps, regions) - torch.from_numpy(answer)).abs().max() < 1e-5
    none = session.run(None, {"maps": maps.numpy(), "regions": np.zeros((0, 4), np.float32)})
    assert none[0].shape == (0, 4, 7, 7)


def test_group_normalization_in_the_graph_is_torch_s():
    torch.manual_seed(0)
    layer = nn.GroupNorm(32, 64, eps=1e-3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    graph = Graph()
    found = network(graph, nn.Sequential(layer), Value(graph, "x"))
    shape = (FLOAT, ["n", 64, "h", "w"])
    session = open_session(graph.serialize({"x": shape}, {found.name: shape}), {}, 1)
    for size in ((1, 64, 7, 20), (3, 64, 1, 1)):
        x = 5 * torch.randn(size) + 100
        exact = F.group_norm(x.double(), 32, layer.weight.double(), layer.bias.double(), layer.eps)
        (answer,) = session.run(None, {"x": x.numpy()})
        ours = (layer(x) - exact).abs().max()
        assert (torch.from_numpy(answer) - exact).abs().max() < max(2 * ours, 1e-5)
