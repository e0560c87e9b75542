"""What export/classifier.py claims: a network that goes elsewhere answers as it does here."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from residual.data.decode import center_crop, resize, to_tensor
from residual.data.normalization import Preprocessing
from residual.export import classifier
from residual.export.graph import FLOAT, UINT8, Graph, Value, open_session
from residual.export.preprocess import preprocess
from residual.models.registry import build
from residual.tasks.classification.load import load
from residual.training.checkpoint import weights_sha256
from residual.weights.convert import convert
from tests.test_engine import KINDS, NAMES, trained

pytest.importorskip("onnxruntime", reason="needs the extra deploy")


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_an_onnx_model_says_what_it_needs_and_answers_for_any_size(kind, inside, tmp_path):
    out = tmp_path / "net.onnx"
    found = classifier.write_onnx(kind, out, inside)
    assert [row["batch"] for row in found] == [1, 3, 17]
    assert all(row["apart"] < 1e-5 for row in found)
    session = open_session(out.read_bytes(), {}, 1)
    known = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    before = kind.preprocessing
    assert known["labels"] == list("abcdefg") and known["network"] == kind.network
    assert known["weights_sha256"] == weights_sha256(kind.net.state_dict())
    view = known["preprocessing"]
    assert view["size"] == list(before.size) and view["shorter"] == before.shorter
    assert np.float32(view["std"]).tolist() == before.std.flatten().tolist()
    if not inside and before.mean.shape[1] > 1:
        assert np.array_equal(np.float32(view["mean_image"]), before.mean.numpy())
    (given,) = session.get_inputs()
    shape = (2, 50, 81, 3) if inside else (2, 3, 96, 64)
    x = np.zeros(shape, np.uint8 if inside else np.float32)
    (answer,) = session.run(None, {given.name: x})
    assert answer.shape == (2, 7) and np.allclose(answer.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("shorter", [None, 40])
@pytest.mark.parametrize(
    "size",
    [(80, 60), (60, 80), (31, 100), (45, 45), (20, 26), (40, 40), (33, 500), (301, 5), (1, 1)],
)
def test_the_resize_in_the_graph_gives_pillow_s_pixels(shorter, size):
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (2, *size[::-1], 3), dtype=np.uint8)
    before = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (32, 30), shorter)
    graph = Graph()
    preprocess(graph, Value(graph, "image"), before)
    graph.nodes[-1].output[0] = "out"
    made = graph.serialize(
        {"image": (UINT8, ["n", "h", "w", 3])}, {"out": (FLOAT, ["n", 3, "height", "width"])}
    )
    (found,) = open_session(made, {}, 1).run(None, {"image": pictures})
    for picture, one in zip(map(Image.fromarray, pictures), found, strict=True):
        cut = (
            resize(picture, (32, 30))
            if shorter is None
            else center_crop(picture, (32, 30), shorter)
        )
        assert np.array_equal(np.round(one * 255), to_tensor(cut).numpy())


def test_a_model_that_differs_is_not_written(tmp_path, monkeypatch):
    kind = trained("resnet8")
    other = replace(kind, net=build("resnet8", 7).eval())
    model = classifier.onnx_model(other, True)
    monkeypatch.setattr(classifier, "onnx_model", lambda *_: model)
    with pytest.raises(ValueError, match="nothing is written: the ONNX model of resnet8"):
        classifier.write_onnx(kind, tmp_path / "net.onnx", True)
    assert not list(tmp_path.iterdir())


def test_probabilities_that_are_near_with_another_best_label_are_refused():
    expected = torch.tensor([[0.40005, 0.39999, 0.2]])
    classifier.check_equal("it", expected, expected)
    with pytest.raises(ValueError, match="it has other labels"):
        classifier.check_equal("it", expected[:, [1, 0, 2]], expected)
    with pytest.raises(ValueError, match="differs"):
        classifier.check_equal("it", expected * float("nan"), expected)


@pytest.mark.parametrize("network", ["resnet18", "resnet50-v1.5"])
def test_weights_go_to_torchvision_and_come_back(network, tmp_path):
    from torchvision.models import get_model

    kind = trained(network, 64, 72)
    classifier.write_weights(kind, tmp_path / "theirs.safetensors", torchvision=True)
    state = load_file(tmp_path / "theirs.safetensors")
    theirs = get_model(network.removesuffix("-v1.5"), num_classes=7)
    theirs.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 64, 64)
    back = convert(state, network).state
    assert back.keys() == kind.net.state_dict().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in kind.net.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(x), kind.net(x), rtol=1e-4, atol=1e-5)


def test_weights_under_our_names_load_into_a_fresh_network(tmp_path):
    kind = trained("resnet8-B", pixel=True)
    classifier.write_weights(kind, tmp_path / "net.safetensors")
    net = build("resnet8-B", 7).eval()
    net.load_state_dict(load_file(tmp_path / "net.safetensors"))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), kind.net(x))


@pytest.mark.parametrize("pixel", [True, False])
def test_weights_under_our_names_come_back_with_labels_and_preprocessing(tmp_path, pixel):
    kind, file = trained("resnet8-B", pixel=pixel), tmp_path / "net.safetensors"
    classifier.write_weights(kind, file)
    back = load(file)
    assert (back.network, back.classes) == (kind.network, kind.classes)
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(back.preprocessing(pictures), kind.preprocessing(pictures))
    assert back.preprocessing.size == kind.preprocessing.size
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(back.net(x), kind.net(x))
    lost = replace(
        kind, preprocessing=replace(kind.preprocessing, whitening=torch.eye(3 * 32 * 32))
    )
    classifier.write_weights(lost, file)
    with pytest.raises(ValueError, match="lacks its ZCA whitening"):
        load(file)


@pytest.mark.parametrize("network", ["resnet18-A", "plain18", "resnet20"])
def test_torchvision_gets_no_network_that_it_does_not_have(network, tmp_path):
    with pytest.raises(ValueError, match=f"torchvision has no {network}; it has resnet18"):
        classifier.write_weights(
            trained(network), tmp_path / "theirs.safetensors", torchvision=True
        )
    assert not list(tmp_path.iterdir())


def test_torchvision_gets_no_network_that_it_would_compute_otherwise(tmp_path):
    with pytest.raises(ValueError, match="torchvision's resnet50 is the variant v1.5"):
        classifier.write_weights(
            trained("resnet50"), tmp_path / "theirs.safetensors", torchvision=True
        )


def test_without_the_extra_one_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"ONNX is not installed; pip install .*\[deploy\]"):
        classifier.write_onnx(trained("resnet8"), tmp_path / "net.onnx", True)


WRONG = {
    "format": (("--format", "pickle", "--out", "x.onnx"), "no format 'pickle'"),
    "preprocessing": (("--preprocessing", "no", "--out", "x.onnx"), "inside or outside"),
    "outside": (
        ("--format", "safetensors", "--preprocessing", "outside", "--out", "x.safetensors"),
        "--preprocessing is for onnx",
    ),
    "ending": (("--format", "torchvision", "--out", "x.pth"), "ends in .safetensors"),
}


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_line_ends_with_status_2(command, words, says):
    answer = command("export", "run", *words)
    assert answer.status == 2 and says in answer.err


def test_the_file_that_the_command_writes_answers_as_prediction_does(command, finished, tmp_path):
    draw = np.random.default_rng(0)
    pictures = [tmp_path / f"{i:02}.png" for i in range(20)]
    for each in pictures:
        Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(each)
    out = tmp_path / "net.onnx"
    answer = command("export", finished, "--out", out, "--threads", 1)
    assert answer.status == 0 and answer.out.count("the same") == 3
    again = command("export", finished, "--out", out)
    assert again.status == 1 and "exists already" in again.complaint
    nowhere = command("export", finished, "--out", tmp_path / "none" / "net.onnx")
    assert nowhere.status == 1 and "no folder" in nowhere.complaint
    session = open_session(out.read_bytes(), {}, 1)
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    for mine in command("predict", finished, *pictures, "--json", "--threads", 1).json:
        (scores,) = session.run(None, {"image": np.asarray(Image.open(mine["image"]))[None]})
        assert labels[int(scores.argmax())] == mine["labels"][0]["label"]
        assert mine["labels"][0]["probability"] == pytest.approx(float(scores.max()), abs=1e-5)
