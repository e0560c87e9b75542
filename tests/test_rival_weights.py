"""Public weights of the compared networks, from files written here in their formats."""

import pytest
import torch

from residual.models.baselines.inception import GOOGLENET
from residual.models.registry import build
from residual.runs.load import load
from residual.weights import caffe
from residual.weights.baselines import HEADS, INCEPTION, OUTSIDE, caffe_name, convert
from residual.weights.fetch import converted, write
from residual.weights.published import torchvisions
from tests import release


@pytest.fixture(scope="module")
def googlenet() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("googlenet", 7).eval()


def as_caffe(net: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Its layers as Caffe names and lays them: BGR, and of a classifier (1, 1, out, in)."""
    layers = [*OUTSIDE, *(f"loss{n}/{part}" for n in (1, 2) for part in HEADS)]
    layers += [f"inception_{module}/{part}" for module in GOOGLENET for part in INCEPTION]
    state, found = net.state_dict(), {}
    for layer in layers:
        weight, bias = (state[str(caffe_name(layer, n))] for n in "01")
        if layer == "conv1/7x7_s2":
            weight = weight.flip(1)
        found[layer] = [weight if weight.ndim == 4 else weight[None, None], bias.view(1, 1, 1, -1)]
    return found


def as_it_was(layers: dict[str, list[torch.Tensor]]) -> bytes:
    """As files were: V1LayerParameter, with a name in field 4 and blobs in field 6."""
    net = b""
    for name, blobs in layers.items():
        own = b"".join(release.field(6, release.blob(each)) for each in blobs)
        net += release.field(2, release.field(4, name.encode()) + own)
    return net


@pytest.mark.parametrize("form", ["today", "before"])
def test_googlenet_is_read_from_caffes_file(googlenet, form, tmp_path):
    file = tmp_path / "bvlc_googlenet.caffemodel"
    layers = as_caffe(googlenet)
    file.write_bytes(release.caffemodel(layers) if form == "today" else as_it_was(layers))
    found = convert(caffe.read(file), "googlenet")
    expected = googlenet.state_dict()
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(found.state[key], expected[key]) for key in expected)
    write(found, tmp_path / "own.safetensors")
    trained = load(tmp_path / "own.safetensors")
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    means = torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(trained.net(trained.preprocessing(pixels)),
                              googlenet(pixels - means), atol=1e-3)  # fmt: skip


def test_vgg_is_read_from_torchvision():
    from torchvision.models import vgg16

    with torch.device("meta"):
        state = vgg16(num_classes=3).state_dict()
    drawn = {key: torch.randn(tensor.shape) if tensor.numel() < 1e6 else torch.zeros(tensor.shape)
             for key, tensor in state.items()}  # fmt: skip
    found = converted(drawn, "vgg16").state
    assert torch.equal(found["conv3_2.0.weight"], drawn["features.12.weight"])
    assert torch.equal(found["fc8.bias"], drawn["classifier.6.bias"])
    assert found["fc6.0.weight"].shape == (4096, 512, 7, 7)
    del drawn["features.0.bias"]
    with pytest.raises(ValueError, match="not the weights of vgg16: missing"):
        converted(drawn, "vgg16")


def test_caffes_vgg_has_our_names():
    assert caffe_name("conv5_3", "0") == "conv5_3.0.weight"
    assert caffe_name("fc6", "1") == "fc6.0.bias" and caffe_name("fc8", "1") == "fc8.bias"
    assert caffe_name("relu1_1", "0") is None


def test_public_vgg_is_fetched_by_name():
    assert torchvisions()["vgg16.IMAGENET1K_V1"].network == "vgg16"
    assert not any("FEATURES" in name for name in torchvisions())


def test_what_does_not_fit_is_said(googlenet):
    with pytest.raises(ValueError, match=r"torchvision's googlenet is another network"):
        convert({"conv1.conv.weight": torch.zeros(1)}, "googlenet")
    with pytest.raises(ValueError, match="no weights from elsewhere are known for nin"):
        convert({}, "nin")
    blobs = {f"{name}/{i}": t for name, both in as_caffe(googlenet).items()
             for i, t in enumerate(both)}  # fmt: skip
    blobs["inception_3a/1x1/0"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"inception_3a/1x1/0 is \(3, 3\)"):
        convert(blobs, "googlenet")
