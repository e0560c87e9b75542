"""Sizes of photographs: what is trained, what is tested, and what cannot be."""

import json
from dataclasses import fields, replace

import pytest
import torch
from conftest import EXACT
from made_photographs import folder  # noqa: F401

from residual.reproduction.experiments import Experiment
from residual.tasks.classification.recipe import RECIPES, changed, from_json
from residual.training.recipe import to_json

IMAGENET, MODERN = RECIPES["imagenet"], RECIPES["modern"]
TINY = (
    "--recipe", "imagenet", "--steps", 2, "--set", "batch=4", "--set", "norm_group=4",
    "--set", "true_statistics=4", "--workers", 0, *EXACT,
)  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "changes", "expected"),
    [
        (IMAGENET, {}, ((256, 480), 0, 256)),
        (IMAGENET, {"size": 224}, ((256, 480), 0, 256)),
        (IMAGENET, {"size": 64}, ((73, 137), 0, 73)),
        (IMAGENET, {"size": 64, "test_size": 96}, ((73, 137), 96, 110)),
        (IMAGENET, {"size": 64, "shorter": 70, "scales": (64, 70)}, ((64, 70), 0, 70)),
        (IMAGENET, {"test_size": 448}, ((256, 480), 448, 512)),
        (IMAGENET, {"size": 64, "crop": "aspect"}, ((256, 480), 0, 73)),
        (MODERN, {"size": 160}, ((256, 480), 224, 232)),
        (MODERN, {"test_size": 112}, ((256, 480), 112, 116)),
    ],
)
def test_scales_and_test_follow_another_size_unless_they_are_said(recipe, changes, expected):
    found = changed(recipe, changes)
    assert (found.scales, found.test_size, found.shorter) == expected
    others = {field.name for field in fields(recipe)} - {"scales", "shorter", *changes}
    assert all(getattr(found, name) == getattr(recipe, name) for name in others)


@pytest.mark.parametrize(("size", "tested"), [(0, 0), (64, 224), (176, 224)])
def test_a_recipe_from_before_there_was_a_test_size_means_what_it_did(size, tested):
    written = to_json(replace(MODERN, size=size))
    del written["test_size"]
    assert from_json(written) == replace(MODERN, size=size, test_size=tested)


def test_the_size_of_a_test_renames_no_experiment():
    """The names are those from before the field."""

    def file_of(recipe):
        return Experiment((recipe,), data="pets", fingerprint="f" * 64).file

    assert file_of(RECIPES["imagenet"]) == "pets-resnet50-600000steps-seed0-316c0765.json"
    assert file_of(RECIPES["modern"]) == "pets-resnet50-v1.5-750600steps-seed0-b9c26a83.json"
    small = file_of(changed(IMAGENET, {"size": 64}))
    older = file_of(replace(IMAGENET, size=64, test_size=224))
    assert small != older


@pytest.fixture(scope="module")
def small(command, folder, tmp_path_factory):  # noqa: F811
    """A run at 32 pixels."""
    root = tmp_path_factory.mktemp("small")
    words = ("--data", folder, "--root", root, "--out", root / "run", "--set", "size=32")
    answer = command("train", "resnet18", *TINY, *words, "--json")
    assert answer.status == 0, answer.err
    return root / "run"


def test_a_test_is_as_large_as_the_training_in_the_paper_s_proportion(small):
    result = json.loads((small / "result.json").read_text())
    assert (result["crop"], result["resize"], result["mean"]) == ([32, 32], [37], "image")
    recipe = json.loads((small / "recipe.json").read_text())
    assert (recipe["scales"], recipe["shorter"]) == ([37, 69], 37)


@pytest.mark.parametrize(
    ("words", "crop", "sides"),
    [
        ((), [32, 32], [37]),
        (("--protocol", "10crop"), [32, 32], [37]),
        (("--protocol", "multiscale"), None, [32, 37, 55, 69, 91]),
        (("--protocol", "144crop"), [32, 32], [37, 41, 46, 50]),
        (("--protocol", "10crop", "--sides", "40,50"), [32, 32], [40, 50]),
    ],
)
def test_every_protocol_looks_in_proportion_unless_sides_are_asked_for(
    command, small, words, crop, sides
):
    answer = command("evaluate", small, *words, "--root", small.parent, "--json", "--workers", 0)
    assert answer.status == 0, answer.err
    assert (answer.json["crop"], answer.json["resize"]) == (crop, sides)


def test_a_prediction_and_an_onnx_model_see_what_the_test_saw(command, small, folder, tmp_path):  # noqa: F811
    picture = folder / "val" / "cat" / "0.jpg"
    told = command("predict", small, picture, "--json", *EXACT[:2])
    assert told.status == 0, told.err
    out = tmp_path / "net.onnx"
    made = command("export", small, "--out", out)
    assert made.status == 0, made.err
    onnx = pytest.importorskip("onnx")
    said = {each.key: each.value for each in onnx.load(out).metadata_props}
    before = json.loads(said["preprocessing"])
    assert (before["size"], before["shorter"]) == ([32, 32], 37)


def test_where_no_mean_image_can_be_the_means_of_channels_are_taken(command, folder, tmp_path):  # noqa: F811
    words = ("--data", folder, "--root", tmp_path, "--out", tmp_path / "run")
    sizes = ("--set", "size=32", "--set", "test_size=48")
    answer = command("train", "resnet18", *TINY, *words, *sizes, "--json")
    assert answer.status == 0, answer.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["crop"], result["resize"], result["mean"]) == ([48, 48], [55], "channels")


REFUSED = {
    "scales=100,200": "scales=100,200 makes pictures smaller than their crops of 224x224",
    "scales=223,480": "scales=223,480 makes pictures smaller than their crops of 224x224",
    "scales=480,256": "scales are two shorter sides, the smaller first, not 480,256",
    "scales=256": "scales are two shorter sides, the smaller first, not 256",
    "shorter=223": "shorter=223 makes pictures smaller than the 224x224 that a test cuts out",
}


@pytest.mark.parametrize(("assignment", "sentence"), REFUSED.items())
def test_sizes_that_cannot_be_are_refused_before_a_folder_is_made(
    command, folder, tmp_path, assignment, sentence  # noqa: F811
):  # fmt: skip
    out = tmp_path / "run"
    words = ("--data", folder, "--root", tmp_path, "--out", out, "--set", assignment)
    answer = command("train", "resnet18", *words)
    assert answer.status in (1, 2) and sentence in answer.complaint
    assert not out.exists()


@pytest.mark.parametrize(("network", "size"), [("vgg16", 223), ("vgg16", 64), ("googlenet", 64)])
def test_pictures_too_small_for_a_network_are_refused(command, folder, tmp_path, network, size):  # noqa: F811
    out = tmp_path / "run"
    words = ("--data", folder, "--root", tmp_path, "--out", out, "--set", f"size={size}")
    answer = command("train", network, *words)
    assert answer.status == 1
    assert f"{network} cannot be trained on {size}x{size} pixels" in answer.complaint
    assert not out.exists()


def test_a_prelu_net_s_onnx_model_takes_the_size_that_it_was_trained_at(monkeypatch):
    pytest.importorskip("onnxruntime")
    from test_baselines_export import answered, exported

    from residual.models.baselines import vgg

    monkeypatch.setitem(vgg.PRELU_NETS, "A", (1, (4, 4, 8)))
    torch.manual_seed(0)
    net = vgg.prelu_net("A", 5).eval()
    for size in (224, 64, 40):
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            expected = net(images).numpy()
        found = answered(exported(net, [3, size, size]), input=images.numpy())
        assert abs(found - expected).max() <= 1e-5 * abs(expected).max()
