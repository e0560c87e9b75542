"""The compared networks as ONNX graphs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from residual.data.datasets import ImageTensors
from residual.data.normalization import Preprocessing, contrast_preprocessing
from residual.export.classifier import has_fixed_size, write_onnx
from residual.export.graph import FLOAT, UINT8, Graph, Value
from residual.export.layers import network
from residual.export.preprocess import preprocess
from residual.models.baselines.layers import SpatialPyramid, initialize
from residual.models.baselines.vgg import Windows
from residual.models.registry import BASELINES, build
from residual.runs.load import Trained

onnxruntime = pytest.importorskip("onnxruntime")
SMALL = [name for name, baseline in BASELINES.items() if baseline.pixels == 32]


def answered(made, **given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(made)
    return session.run(None, given)[0]


def exported(net: torch.nn.Module, size: list[int | str]):
    graph = Graph()
    scores = network(graph, net.eval(), Value(graph, "input"))
    return graph.serialize(
        {"input": (FLOAT, ["n", *size])}, {scores.name: (FLOAT, ["n", "classes"])}
    )


def he_initialized(name: str) -> torch.nn.Module:
    """A baseline whose scores differ; its own initialization gives hardly any."""
    torch.manual_seed(0)
    return initialize(build(name, 5), torch.nn.init.kaiming_normal_).eval()


@pytest.mark.parametrize("name", [*SMALL, "googlenet", "bn-inception"])
def test_a_baseline_s_graph_gives_its_scores(name):
    net = he_initialized(name)
    side = BASELINES[name].pixels
    made = exported(net, [3, side, side])
    for batch in (1, 3):
        images = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            expected = net(images)
        assert expected.std() > 1e-3
        scale = float(expected.abs().max())
        assert np.allclose(answered(made, input=images.numpy()), expected, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["googlenet", "bn-inception"])
def test_a_baseline_s_graph_takes_sizes_whose_maps_are_odd(name):
    net = he_initialized(name)
    made = exported(net, [3, "height", "width"])
    for size in ((224, 224), (232, 265)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = net(images)
        scale = float(expected.abs().max())
        assert np.allclose(answered(made, input=images.numpy()), expected, atol=1e-5 * scale)


def test_prelus_and_a_pyramid_in_a_window_are_exported():
    head = torch.nn.Sequential(
        SpatialPyramid((7, 3, 2, 1)), torch.nn.Linear(4 * 63, 6), torch.nn.PReLU(6, 0.25)
    )
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.PReLU(4, 0.25))
    net = torch.nn.Sequential(body, Windows(head)).eval()
    images = torch.randn(3, 3, 14, 14)
    with torch.no_grad():
        expected = net(images)
    assert np.allclose(
        answered(exported(net, [3, 14, 14]), input=images.numpy()), expected, atol=1e-5
    )


@pytest.mark.parametrize("whitened", [False, True])
def test_contrast_and_whitening_are_in_the_graph_as_in_training(whitened):
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    pixels[0] = 77  # without contrast
    how: Preprocessing = contrast_preprocessing(
        ImageTensors(pixels, torch.zeros(40).long()), whitened
    )
    graph = Graph()
    wanted = preprocess(graph, Value(graph, "image"), how)
    made = graph.serialize(
        {"image": (UINT8, ["n", "h", "w", 3])}, {wanted.name: (FLOAT, ["n", 3, 8, 8])}
    )
    found = answered(made, image=pixels.permute(0, 2, 3, 1).contiguous().numpy())
    assert np.allclose(found, how(pixels), atol=1e-4)


def of_one_size(name: str, whitened: bool = False) -> Trained:
    net, side = he_initialized(name), BASELINES[name].pixels
    whitening = torch.eye(3 * side * side) if whitened else None
    mean, std = torch.full((3, side, side), 0.5), torch.ones(3, 1, 1)
    before = Preprocessing(mean, std, (side, side), None, whitening=whitening)
    return Trained(net, name, tuple("abcde"), before, None, 1)


@pytest.mark.parametrize(
    ("name", "whitened", "fixed"),
    [
        ("maxout", False, True),  # its last maps have one size
        ("fitnet19", False, False),
        ("nin", False, False),
        ("nin", True, True),
    ],
)
def test_a_model_with_preprocessing_outside_takes_the_sizes_that_its_network_takes(
    tmp_path, name, whitened, fixed
):
    trained, out = of_one_size(name, whitened), tmp_path / "net.onnx"
    rows = write_onnx(trained, out, inside=False)
    assert [row["batch"] for row in rows] == [1, 3, 17]
    session = onnxruntime.InferenceSession(out.read_bytes())
    (given,) = session.get_inputs()
    assert given.shape == ["batch", 3, *((32, 32) if fixed else ("height", "width"))]
    x = trained.preprocessing(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    (answer,) = session.run(None, {given.name: x.numpy()})
    with torch.no_grad():
        assert np.allclose(answer, trained.net(x).softmax(dim=1), atol=1e-4)


def test_a_pyramid_in_a_window_is_of_one_size():
    trained = of_one_size("nin")
    assert not has_fixed_size(trained)
    assert has_fixed_size(
        replace(trained, net=torch.nn.Sequential(trained.net, Windows(trained.net)))
    )
