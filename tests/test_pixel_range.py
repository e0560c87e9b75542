"""Each network meets pixels on the scale that its publication gives them."""

import pytest
import torch
from made_photographs import folder  # noqa: F401

from residual.data.folder import open_folder
from residual.data.loader import LoaderOptions
from residual.data.normalization import Preprocessing
from residual.models.baselines import vgg
from residual.models.registry import build, model_spec
from residual.tasks.classification.load import load
from residual.tasks.classification.loader import batches, preprocessing
from residual.tasks.classification.train import recipe_for
from residual.tasks.detection import loader as detection_supply
from residual.training import checkpoint
from residual.training.checkpoint import with_preprocessing

RANGES = {
    "vgg16": 255,
    "vgg19": 255,
    "googlenet": 255,
    "prelu-net-A": 255,
    "prelu-net-C": 255,
    "bn-inception": 1,  # batch normalization behind the first convolution
    "resnet50": 1,
    "plain34": 1,
}


@pytest.mark.parametrize("name", RANGES)
def test_pixels_reach_a_network_as_published(name, folder, tmp_path):  # noqa: F811
    recipe = recipe_for(name, "pets")
    before = preprocessing(recipe, open_folder(folder, tmp_path))
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    expected = (pixels / 255 - before.mean) * RANGES[name]
    assert torch.allclose(before(pixels), expected, rtol=1e-5, atol=1e-4)


def test_training_and_test_meet_the_same_scale(folder, tmp_path):  # noqa: F811
    data = open_folder(folder, tmp_path)
    spreads = {}
    for name in ("googlenet", "bn-inception"):
        recipe = recipe_for(name, "pets")
        before = preprocessing(recipe, data)
        images, _ = next(batches(recipe, data, before, LoaderOptions(torch.device("cpu"))))
        spreads[name] = float(images.std())
    assert spreads["googlenet"] == pytest.approx(255 * spreads["bn-inception"], rel=1e-4)


def test_googlenet_s_response_normalisation_does_something_at_its_start(folder, tmp_path):  # noqa: F811
    torch.manual_seed(0)
    net, data = build("googlenet", 2), open_folder(folder, tmp_path)
    recipe = recipe_for("googlenet", "pets")
    images, _ = next(
        batches(recipe, data, preprocessing(recipe, data), LoaderOptions(torch.device("cpu")))
    )
    maps = net.pool1(net.conv1(images[:4]))
    strong = maps > maps.mean()
    assert (net.norm1(maps)[strong] / maps[strong]).mean() < 0.98


@pytest.mark.parametrize("deviation", [1.0, 0.226])
def test_weights_keep_the_scale_that_they_were_trained_at(tmp_path, deviation):
    """Files from before, at 0 to 1, and weights from elsewhere."""
    own = Preprocessing(
        torch.full((3, 1, 1), 0.45), torch.full((3, 1, 1), deviation), (224, 224), 256
    )
    tensors = {f"net.{k}": t for k, t in build("googlenet", 2).state_dict().items()}
    header = {"network": "googlenet", "classes": ["cat", "dog"]}
    checkpoint.save(tmp_path / "file", *with_preprocessing(tensors, header, own))
    found = load(tmp_path / "file").preprocessing
    assert torch.equal(found.std, own.std) and torch.equal(found.mean, own.mean)


@pytest.mark.parametrize(("name", "std"), [("vgg16", 1 / 255), ("resnet18", 0.229)])
def test_a_detector_from_scratch_meets_the_scale_of_its_network(name, std):
    before = detection_supply.imagenet_preprocessing(600, model_spec(name).pixel_range)
    assert float(before.std[0]) == pytest.approx(std) and float(before.mean[0]) > 0.4


def test_prelu_net_ends_in_small_layers_that_make_up_for_large_pixels(monkeypatch):
    monkeypatch.setitem(vgg.PRELU_NETS, "A", (1, (4, 4, 8)))
    torch.manual_seed(0)
    head = vgg.prelu_net("A", 50).get_submodule("windows.head")
    for name, deviation in (("fc1", 0.01), ("fc2", 0.01), ("fc3", 0.001)):
        layer = head.get_submodule(name)
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
        assert not layer.bias.any()
