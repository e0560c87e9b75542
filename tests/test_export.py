"""What deployment/export.py claims: a network that goes elsewhere answers as it does here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from residual.data.batches import Preprocessing
from residual.data.decode import centre, pixels, resized
from residual.deployment import export
from residual.deployment.engine import engine, session_of
from residual.deployment.folding import folded
from residual.deployment.graph import UINT8, Graph, Value
from residual.deployment.model import model
from residual.deployment.pixels import prepared
from residual.nets.networks import build
from residual.runs.loading import Trained

pytest.importorskip("onnxruntime", reason="needs the extra deploy")


def trained(
    network: str, size: int = 32, shorter: int | None = None, pixel: bool = False
) -> Trained:
    """A network with statistics that are not those of its start."""
    torch.manual_seed(0)
    net = build(network, 7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    mean = torch.rand(3, *((size, size) if pixel else (1, 1)))
    before = Preprocessing(mean, torch.rand(3, 1, 1) + 0.5, (size, size), shorter)
    return Trained(net.eval(), network, tuple("abcdefg"), before, None, None)


KINDS = [
    trained("resnet8"), trained("plain8"), trained("resnet8-B", pixel=True),
    trained("resnet18", 64, 72), trained("resnet50", 64, 72), trained("resnet18-C", 64, 64, True),
]  # fmt: skip
NAMES = [f"{each.network}-{each.preprocessing.shorter}" for each in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_folding_and_both_engines_change_no_probability(kind):
    x = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = kind.net(x).softmax(dim=1)
        assert (folded(kind.net)(x).softmax(dim=1) - expected).abs().max() < 1e-5
    assert not [m for m in folded(kind.net).modules() if isinstance(m, nn.BatchNorm2d)]
    for name in ("torch", "onnxruntime", "auto"):
        assert (engine(kind, name, 1)(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_an_onnx_model_says_what_it_needs_and_answers_for_any_size(kind, inside, tmp_path):
    out = tmp_path / "net.onnx"
    found = export.to_onnx(kind, out, inside)
    assert found.apart < 1e-5
    session = session_of(out.read_bytes(), 1)
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["labels"]) == list("abcdefg")
    assert json.loads(known["size"]) == list(kind.preprocessing.size)
    (given,) = session.get_inputs()
    shape = (2, 50, 81, 3) if inside else (2, 3, 96, 64)
    x = np.zeros(shape, np.uint8 if inside else np.float32)
    (answer,) = session.run(None, {given.name: x})
    assert answer.shape == (2, 7) and np.allclose(answer.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("shorter", [None, 40])
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (31, 100), (45, 45), (20, 26), (40, 40)])
def test_the_resize_in_the_graph_gives_pillow_s_pixels_or_the_next_level(shorter, size):
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    before = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (32, 32), shorter)
    graph = Graph()
    prepared(graph, Value(graph, "image"), before)
    graph.nodes[-1].output[0] = "out"
    made = graph.model({"image": (UINT8, ["n", "h", "w", 3])}, ("out", ["n", 3, 32, 32]))
    (found,) = session_of(made.SerializeToString(), 1).run(
        None, {"image": np.asarray(picture)[None]}
    )
    cut = resized(picture, (32, 32)) if shorter is None else centre(picture, (32, 32), shorter)
    apart = np.abs(np.round(found[0] * 255) - pixels(cut).numpy())
    assert apart.max() <= (1 if shorter is None else 0)


def test_a_model_that_differs_is_not_written(tmp_path, monkeypatch):
    kind = trained("resnet8")
    other = replace(kind, net=build("resnet8", 7).eval())
    monkeypatch.setattr("residual.deployment.model.model", lambda *_: model(other, True))
    with pytest.raises(ValueError, match="nothing is written, for the ONNX model of resnet8"):
        export.to_onnx(kind, tmp_path / "net.onnx", True)
    assert not list(tmp_path.iterdir())


def test_weights_go_to_torchvision_and_come_back(tmp_path):
    from torchvision.models import resnet50

    kind = trained("resnet50-v1.5", 64, 72)
    export.to_torchvision(kind, tmp_path / "theirs.pth")
    theirs = resnet50(num_classes=7)
    theirs.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(x), kind.net(x), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "theirs.json").read_text())["shorter"] == 72


@pytest.mark.parametrize("network", ["resnet50", "resnet18-A", "plain18", "resnet20"])
def test_torchvision_gets_no_network_that_it_does_not_have(network, tmp_path):
    with pytest.raises(ValueError, match=f"torchvision has no {network}; it has resnet18"):
        export.to_torchvision(trained(network), tmp_path / "theirs.pth")


def test_the_commands_export_and_predict_agree(command, finished, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    draw = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(
            pictures / f"{i:02}.png"
        )
    out = tmp_path / "net.onnx"
    answer = command("export", finished, "--out", out, "--threads", 1)
    assert answer.status == 0 and "the same labels" in answer.out
    again = command("export", finished, "--out", out)
    assert again.status == 1 and "exists already" in again.complaint
    by_folder = command("predict", finished, pictures, "--json", "--threads", 1)
    by_pattern = command(
        "predict", finished, pictures / "*.png", "--json", "--threads", 1, "--engine", "torch"
    )
    session = session_of(out.read_bytes(), 1)
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    assert len(by_folder.json) == len(by_pattern.json) == 20
    for mine, other in zip(by_folder.json, by_pattern.json, strict=True):
        picture = np.asarray(Image.open(mine["image"]))[None]
        (scores,) = session.run(None, {"image": picture})
        assert mine["image"] == other["image"]
        assert mine["labels"][0]["label"] == other["labels"][0]["label"]
        assert labels[int(scores.argmax())] == mine["labels"][0]["label"]
        best = [x["probability"] for x in mine["labels"]]
        assert best == pytest.approx([x["probability"] for x in other["labels"]], abs=1e-4)
        assert best[0] == pytest.approx(float(scores.max()), abs=1e-4)


def test_a_folder_or_a_pattern_without_pictures_is_said(command, finished, tmp_path):
    assert "holds no pictures" in command("predict", finished, tmp_path).complaint
    assert "no picture fits" in command("predict", finished, Path("*.jpg"), cwd=tmp_path).complaint
