"""Class activation maps, against their definitions; and the command `explain`."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_evaluate_command import weights

import residual
from residual.analysis.explain import explain
from residual.data.decode import decode
from residual.data.normalization import Preprocessing
from residual.models.registry import build
from residual.runs.load import Trained
from residual.tasks.classification.load import load

CLASSES = ("cat", "dog", "eel", "fox", "gnu")
GLOBAL_AVERAGE = ("resnet20", "resnet18", "plain8", "googlenet", "bn-inception", "highway19", "nin")


def trained(name: str, size: int, shorter: int | None = None, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    preprocessing = Preprocessing(
        torch.rand(3, 1, 1), torch.full((3, 1, 1), 0.2), (size, size), shorter
    )
    return Trained(build(name, len(CLASSES)).eval(), name, CLASSES, preprocessing, None, None)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def until(net: torch.nn.Module, layer: str, inputs: torch.Tensor) -> torch.Tensor:
    """The output of a child, computed child by child."""
    for name, child in net.named_children():
        if name != "heads":
            inputs = child(inputs)
        if name == layer:
            return inputs
    raise AssertionError(layer)


@pytest.mark.parametrize(
    ("name", "size", "layer"), [("resnet20", 32, "conv4_x"), ("googlenet", 64, "inception5b")]
)
def test_a_map_is_the_last_features_weighted_by_the_linear_layer(name, size, layer):
    net, picture = trained(name, size), photograph(size, size)
    result = explain(net, picture, "eel")
    with torch.no_grad():
        features = until(net.net, layer, net.preprocessing(decode(picture)[None]))[0]
    weight = net.net.get_submodule("fc").weight[2].detach()
    by_hand = sum(w * channel for w, channel in zip(weight, features, strict=True))
    assert (result.method, result.label) == ("CAM", "eel")
    assert torch.allclose(result.map, by_hand, rtol=1e-4, atol=1e-5 * float(by_hand.abs().max()))


@pytest.mark.parametrize("name", GLOBAL_AVERAGE)
def test_the_mean_of_the_map_and_the_bias_are_the_score(name):
    size = 32 if name in ("resnet20", "plain8", "highway19", "nin") else 64
    net, picture = trained(name, size), photograph(size, size, 1)
    result = explain(net, picture)
    with torch.no_grad():
        scores = net.net(net.preprocessing(decode(picture)[None]))[0]
    index = int(scores.argmax())
    last = [module for module in net.net.modules() if isinstance(module, torch.nn.Linear)]
    bias = last[-1].bias[index].detach() if name != "nin" else torch.zeros(())
    assert result.method == "CAM" and result.label == CLASSES[index]
    assert result.probability == pytest.approx(float(scores.softmax(0)[index]))
    assert float(result.map.mean() + bias) == pytest.approx(float(scores[index]), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("vgg16", 224, "conv5_3"),
        ("prelu-net-A", 224, "conv4_5"),
        ("maxout", 32, "maxout2"),
        ("fitnet19", 32, "maxout16"),
    ],
)
def test_grad_cam_is_its_definition_on_the_last_convolution(name, size, layer):
    net, picture = trained(name, size), photograph(size, size)
    inputs = net.preprocessing(decode(picture)[None])
    result = explain(net, picture, "fox")
    assert result.method == "Grad-CAM"
    features = until(net.net, layer, inputs).detach().requires_grad_()
    names = [child for child, _ in net.net.named_children() if child != "heads"]
    x = features
    for child in names[names.index(layer) + 1 :]:
        x = net.net.get_submodule(child)(x)
    x[0, 3].backward()
    alpha = features.grad[0].mean(dim=(1, 2))  # Equation 1 of Grad-CAM
    by_hand = sum(a * channel for a, channel in zip(alpha, features[0], strict=True)).detach()
    assert torch.allclose(result.map, by_hand, rtol=1e-3, atol=1e-4 * float(by_hand.abs().max()))


def test_a_linear_layer_on_all_places_is_not_cam():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(8 * 30 * 30, len(CLASSES)))
    mine = replace(trained("resnet8", 32), net=net.eval())
    assert explain(mine, photograph(32, 32)).method == "Grad-CAM"


def test_a_network_is_left_as_it_was():
    net = trained("resnet8", 32)
    net.net.train().requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.net.state_dict().items()}
    with torch.inference_mode():
        explain(net, photograph(40, 50))
    assert net.net.training and not any(p.requires_grad for p in net.net.parameters())
    assert all(torch.equal(state[name], t) for name, t in net.net.state_dict().items())
    assert not any(module._forward_hooks for module in net.net.modules())


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (61, 200)])
def test_the_map_lies_on_the_pixels_that_the_network_saw(size):
    """The map covers the centre crop; outside of it, there is none."""
    net = trained("resnet8", 32, shorter=40)
    heat, scale = explain(net, photograph(*size)).heat(), min(size) / 40
    assert heat.shape == (size[1], size[0])
    seen = heat.isfinite()
    for axis, length in ((1, size[1]), (0, size[0])):
        places = seen.any(dim=axis).nonzero()[:, 0]
        margin = (length - 32 * scale) / 2
        assert abs(int(places[0]) - margin) <= 1.5
        assert abs(int(places[-1]) + 1 - (length - margin)) <= 1.5
    assert float(heat[seen].max()) <= 1 and float(heat[seen].min()) >= 0


def test_the_map_on_the_picture_is_the_map_resized_as_the_input_was():
    net = trained("resnet8", 32, shorter=32)
    result = explain(net, photograph(64, 32))  # the centre square, in its own size
    positive = result.map.clamp(min=0)
    expected = F.interpolate((positive / positive.max())[None, None], (32, 32), mode="bilinear")
    heat = result.heat()
    assert torch.allclose(heat[:, 16:48], expected[0, 0], atol=1e-5)
    assert heat[:, :16].isnan().all() and heat[:, 48:].isnan().all()


def test_small_pictures_are_drawn_enlarged_and_large_ones_reduced():
    net = trained("resnet8", 32)
    assert explain(net, photograph(8, 8)).draw().size == (512, 512)
    assert explain(net, photograph(2048, 1024)).draw().size == (512, 256)
    assert explain(net, photograph(3, 90)).draw(60).size == (2, 60)
    assert explain(net, photograph(1, 2000)).draw().size == (1, 512)
    assert explain(net, photograph(2000, 1)).draw().size == (512, 1)


def test_without_evidence_for_a_class_the_picture_is_drawn_as_it_is():
    net = trained("resnet8", 32)
    fc = net.net.get_submodule("fc")
    with torch.no_grad():
        fc.weight.abs_().neg_()
    picture = photograph(512, 512)
    result = explain(net, picture, "dog")
    assert float(result.map.max()) <= 0
    assert np.array_equal(np.asarray(result.draw()), np.asarray(picture))


def test_an_unknown_class_is_named_with_its_nearest():
    with pytest.raises(ValueError, match="resnet8 knows no class 'do'; the nearest are dog, "):
        explain(trained("resnet8", 32), photograph(8, 8), "do")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    weights(root / "net.safetensors", 0, CLASSES, 40)
    for i, folder in enumerate((root / "one", root / "two")):
        folder.mkdir()
        photograph(60, 44, i).save(folder / "a.png")
    (root / "one" / "broken.jpg").write_bytes(b"no picture")
    return root


def test_pictures_are_explained_and_damaged_ones_named(command, place, tmp_path):
    words = ("explain", place / "net.safetensors", place / "one", place / "two", "--threads", 1)
    answer = command(*words, "--out", tmp_path / "maps", "--json", "--class", "gnu")
    assert answer.status == 1
    assert f"residual: {place}/one/broken.jpg is no picture" in answer.err
    first, broken, second = answer.json
    assert first["image"] == f"{place}/one/a.png" and "broken.jpg" in broken["error"]
    assert (first["label"], first["method"]) == ("gnu", "CAM") and 0 < first["probability"] < 1
    assert Path(first["drawing"]).name == "a-map.png"
    assert Path(second["drawing"]).name == "a-map-2.png"
    for drawing in (first["drawing"], second["drawing"]):
        assert Image.open(drawing).width == 512
    predicted = command("predict", place / "net.safetensors", place / "two", "--json")
    shares = {label["label"]: label["probability"] for label in predicted.json[0]["labels"]}
    assert second["probability"] == pytest.approx(shares["gnu"], rel=1e-4)
    plain = command(*words[:2], place / "two", "--out", tmp_path / "maps")
    assert plain.status == 0
    assert f"two/a.png: {predicted.json[0]['labels'][0]['label']} " in plain.out
    photograph(60, 44).save(tmp_path / "two\nlines.png")
    plain = command(*words[:2], tmp_path / "two\nlines.png", "--out", tmp_path / "maps")
    assert plain.status == 0 and plain.out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--out", "maps", "--class", "gun"), "resnet18 knows no class 'gun'; the nearest are gnu"),
        (("--out", "{}/one/a.png"), "cannot write {}/one/a.png: File exists"),
        (("--out", "{}/one/a.png/maps"), "cannot write {}/one/a.png/maps: Not a directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(command, place, tmp_path, words, sentence):
    words = [word.format(place) for word in words]
    answer = command("explain", place / "net.safetensors", place / "two", *words, cwd=tmp_path)
    assert answer.status == 1 and sentence.format(place) in answer.complaint
    assert not list(tmp_path.iterdir())


def test_the_commands_of_the_page_about_it_work(command, finished, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "looking-inside.md").read_text()
    for name in ("resnet20-1", "resnet20-2", "plain20-1"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    photograph(8, 8).save(tmp_path / "digit.png")
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.split("\n")
    ]
    commands = [shlex.split(line)[1:] for line in lines if line]
    assert {words[0] for words in commands} == {"explain", "report"}
    for words in commands:
        if words[:1] == ["report"]:
            words += ["--no-mistakes"]  # test_mistakes.py has them
        answer = command(*words, cwd=tmp_path)
        assert answer.status == 0, answer.err
    assert (tmp_path / "runs" / "resnet20-1" / "report" / "together.html").is_file()


def test_a_loaded_network_explains_pictures_in_memory(finished):
    model, pixels = residual.load(finished), np.asarray(photograph(8, 8))
    result = model.explain(pixels, "3")
    expected = explain(load(finished), Image.fromarray(pixels), "3")
    assert torch.equal(result.map, expected.map) and result.label == "3"
    assert model.explain(pixels).label == model.predict(pixels)[0]["labels"][0]["label"]
