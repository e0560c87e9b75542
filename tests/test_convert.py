"""Converted weights of other libraries give the same scores here as there."""

import os
from pathlib import Path

import pytest
import release
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from residual.models.registry import build
from residual.tasks.classification.load import load
from residual.weights.convert import convert, write
from residual.weights.files import read
from residual.weights.layouts import GOOGLENET
from residual.weights.published import PretrainedConfig

SHARED = os.environ.get("RESIDUAL_SHARED")
DEPTHS = {18: "resnet18", 34: "resnet34"} | {d: f"resnet{d}-v1.5" for d in (50, 101, 152)}


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64, all that it learns or measures drawn at random."""
    net = net.to_empty(device="cpu").double().eval()
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = module.weight[0].numel() ** -0.5
            module.weight.data.normal_(0, deviation, generator=draw)
        if isinstance(module, nn.BatchNorm2d):
            for scale in (module.weight.data, module.running_var):
                scale.uniform_(0.5, 1.5, generator=draw)
            for offset in (module.bias.data, module.running_mean):
                offset.normal_(0, 0.3, generator=draw)
            module.num_batches_tracked.random_(1, 100, generator=draw)
        if isinstance(module, nn.Linear):
            module.bias.data.normal_(0, 1, generator=draw)
    return net


def torchvisions(depth: int) -> nn.Module:
    with torch.device("meta"):
        net = torchvision.models.get_model(f"resnet{depth}")
    return drawn(net, depth)


def filled(network: str, state: dict[str, Tensor], classes: int | None = None) -> nn.Module:
    """Our network of this name with these weights, in float64."""
    with torch.device("meta"):
        net = build(network, classes)
    net.load_state_dict(state, assign=True)
    return net.eval()


@torch.no_grad()
def apart(ours: nn.Module, theirs: nn.Module, size: int) -> float:
    """How far two networks' scores of random images lie apart, relative to the scores."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, size, size, generator=draw, dtype=torch.float64)
    expected = theirs(images)
    assert expected.isfinite().all()
    assert expected.std() > 1e-3
    return float((ours(images) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("depth", DEPTHS)
def test_torchvisions_networks_give_the_same_scores_under_our_names(depth):
    theirs = torchvisions(depth)
    conversion = convert(theirs.state_dict(), DEPTHS[depth])
    assert len(conversion.mapped) == len(theirs.state_dict())
    assert apart(filled(DEPTHS[depth], conversion.state), theirs, 64) < 1e-9


@pytest.mark.parametrize("depth", [18, 50])
def test_timms_networks_give_the_same_scores_under_our_names(depth):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with torch.device("meta"):
        theirs = timm.create_model(f"resnet{depth}")
    theirs = drawn(theirs, depth)
    conversion = convert(theirs.state_dict(), DEPTHS[depth])
    assert apart(filled(DEPTHS[depth], conversion.state), theirs, 64) < 1e-9


def test_a_v1_net_in_place_of_v15_is_caught_by_its_scores():
    theirs = torchvisions(50)
    state = convert(theirs.state_dict(), "resnet50", assume="v1").state
    assert apart(filled("resnet50", state), theirs, 64) > 1e-3


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_weights_of_the_later_variant_never_fill_the_papers_network(depth):
    net = torchvision.models.get_model
    with torch.device("meta"):
        state = net(f"resnet{depth}").state_dict()
    with pytest.raises(ValueError, match=f"convert them to resnet{depth}-v1.5"):
        convert(state, f"resnet{depth}")
    sentence = f"^resnet{depth}-v1.5 is the variant v1.5; to assume v1, convert to resnet{depth}$"
    with pytest.raises(ValueError, match=sentence):
        convert(state, f"resnet{depth}-v1.5", assume="v1")


class Theirs(nn.Module):
    """The CIFAR network of akamaster/pytorch_resnet_cifar10: option A pads on both sides."""

    class Block(nn.Module):
        def __init__(self, n_in: int, n_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(n_out)
            self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(n_out)
            self.stride, self.pad = stride, (n_out - n_in) // 2

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
            return F.relu(y + x)

    def __init__(self, n: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self.stage(16, 16, n, 1)
        self.layer2 = self.stage(16, 32, n, 2)
        self.layer3 = self.stage(32, 64, n, 2)
        self.linear = nn.Linear(64, classes)

    def stage(self, n_in: int, n_out: int, n: int, stride: int) -> nn.Sequential:
        rest = (self.Block(n_out, n_out, 1) for _ in range(n - 1))
        return nn.Sequential(self.Block(n_in, n_out, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(("network", "n"), [("resnet8", 1), ("resnet20", 3), ("cifar-resnet50", 8)])
def test_a_net_with_zeros_on_both_sides_gives_the_same_scores_with_zeros_behind(network, n):
    theirs = drawn(Theirs(n))
    conversion = convert(theirs.state_dict(), network)
    assert conversion.network == network
    assert apart(filled(network, conversion.state), theirs, 32) < 1e-9


def test_without_its_channels_reordered_such_a_net_gives_other_scores(monkeypatch):
    theirs = drawn(Theirs(3))
    monkeypatch.setattr("residual.weights.convert.with_padding_behind", lambda state: state)
    state = convert(theirs.state_dict(), "resnet20").state
    assert apart(filled("resnet20", state), theirs, 32) > 1e-3


def test_prefixes_and_wrappings_are_taken_off_however_many_there_are():
    plain = drawn(Theirs(1)).state_dict()
    wrapped = {f"module._orig_mod.module.{key}": value for key, value in plain.items()}
    conversion = convert({"model": {"state_dict": wrapped, "epoch": 3}}, "resnet8")
    expected = convert(plain, "resnet8").state
    assert all(torch.equal(conversion.state[key], value) for key, value in expected.items())
    assert ("module._orig_mod.module.linear.bias", "fc.bias") in conversion.mapped


def test_the_counts_of_steps_may_be_missing():
    state = drawn(Theirs(1)).state_dict()
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    conversion = convert(old, "resnet8")
    assert set(conversion.state) == set(build("resnet8").state_dict())


def test_what_was_converted_knows_its_classes_and_its_preprocessing():
    small = convert(drawn(Theirs(1)).state_dict(), "resnet8").config
    assert small.classes is not None
    assert (small.classes[0], small.classes[9], small.size) == ("airplane", "truck", (32, 32))
    conversion = convert(torchvisions(18).state_dict(), "resnet18-B")
    large = conversion.config
    assert large.classes is not None
    assert (len(large.classes), large.classes[0]) == (1000, "tench")
    assert (large.shorter, large.size) == (256, (224, 224))
    assert "assumed" in large.says
    assert conversion.network == "resnet18"
    for card in (small, large):
        assert card.mean == (0.485, 0.456, 0.406)
        assert card.std == (0.229, 0.224, 0.225)


def test_the_number_of_classes_comes_from_the_weights():
    theirs = drawn(Theirs(1, classes=7))
    conversion = convert(theirs.state_dict(), "resnet8")
    assert conversion.config.classes is None
    assert apart(filled("resnet8", conversion.state, classes=7), theirs, 32) < 1e-9


def test_a_missing_an_unexpected_and_a_misshapen_key_are_each_named():
    state = Theirs(1).state_dict()
    short = {key: value for key, value in state.items() if key != "layer2.0.bn1.bias"}
    with pytest.raises(ValueError, match=r"mapped; missing \(1\): conv3_x\.0\.branch\.0\.1\.bias$"):
        convert(short, "resnet8")
    with pytest.raises(ValueError, match=r"mapped; unexpected \(1\): conv9\.weight$"):
        convert(state | {"conv9.weight": torch.zeros(1)}, "resnet8")
    with pytest.raises(ValueError, match=r"conv1\.weight is \(16, 3, 5, 5\) instead of \(16, 3, 3"):
        convert(state | {"conv1.weight": torch.zeros(16, 3, 5, 5)}, "resnet8")


def test_weights_of_another_depth_are_refused_with_the_first_keys_and_their_number():
    with pytest.raises(ValueError) as refused:
        convert(Theirs(1).state_dict(), "resnet20")
    assert str(refused.value) == (
        "nothing is converted, for these are not the weights of resnet20, but look like those of a "
        "network of 8 layers: 44 keys mapped; missing (60): conv2_x.1.branch.0.0.weight, "
        "conv2_x.1.branch.0.1.weight, conv2_x.1.branch.0.1.bias and 57 more"
    )


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_that_weights_have_is_said_where_another_was_named(depth):
    wrong = 50 if depth == 18 else 18
    with torch.device("meta"):
        state = torchvision.models.get_model(f"resnet{depth}").state_dict()
    with pytest.raises(ValueError, match=f"but look like those of a network of {depth} layers"):
        convert(state, DEPTHS[wrong])


def test_what_is_known_of_a_file_goes_into_the_conversion():
    card = PretrainedConfig("here", mean=(0.1, 0.2, 0.3), size=(16, 16), classes=("a", "b", "c"))
    state = drawn(Theirs(1, classes=3)).state_dict()
    conversion = convert(state, "resnet8", config=card)
    assert conversion.config == card
    assert conversion.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="here, and it names 3 classes where the weights have 10"):
        convert(Theirs(1).state_dict(), "resnet8", config=card)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("plain8", "has no plain8; it has resnet20, resnet32, "),
        ("resnet18", "has no resnet18; it has resnet20"),
        ("resnet8-B", "missing"),
    ],
)
def test_weights_never_fill_a_network_of_another_kind(network, sentence):
    with pytest.raises(ValueError, match=sentence):
        convert(Theirs(1).state_dict(), network)


def test_a_third_layer_in_a_shortcut_is_unexpected():
    state = torchvisions(18).state_dict()
    state["layer2.0.downsample.2.weight"] = torch.zeros(128)
    with pytest.raises(ValueError, match=r"unexpected \(1\): layer2\.0\.downsample\.2\.weight$"):
        convert(state, "resnet18")
    with pytest.raises(ValueError, match="has no resnet20; it has resnet18, resnet34, resnet50-v1"):
        convert(state, "resnet20")


def test_timms_variants_with_another_stem_are_refused():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with torch.device("meta"):
        state = timm.create_model("resnet50d").state_dict()
    with pytest.raises(ValueError, match=r"unexpected \(\d+\): conv1\.0\.weight"):
        convert(state, "resnet50-v1.5")


def test_weights_of_no_known_layout_are_refused():
    with pytest.raises(ValueError, match=r"not those of torchvision.* features\.0\.weight$"):
        convert({"features.0.weight": torch.zeros(1)}, "resnet18")
    with pytest.raises(ValueError, match="not those of torchvision"):
        convert({}, "resnet18")


@pytest.mark.skipif(SHARED is None, reason="RESIDUAL_SHARED names no folder with real weights")
@pytest.mark.parametrize(
    ("file", "network"),
    [("resnet20-12fca82f.th", "resnet20"), ("resnet56-4bfd9763.th", "resnet56")],
)
def test_trained_weights_of_akamaster_are_converted(file, network):
    conversion = convert(read(Path(SHARED or "") / "weights" / file), network)
    assert conversion.source.startswith("akamaster")
    assert build(network).load_state_dict(conversion.state)


# ---- baselines ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def googlenet() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("googlenet", 7).eval()


def as_caffe(net: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Its layers as Caffe names and lays them: BGR, and of a classifier (1, 1, out, in)."""
    state, found = net.state_dict(), {}
    for layer, ours in GOOGLENET.items():
        weight, bias = state[f"{ours}.weight"], state[f"{ours}.bias"]
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
    found = convert(read(file), "googlenet")
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
    found = convert(drawn, "vgg16").state
    assert torch.equal(found["conv3_2.0.weight"], drawn["features.12.weight"])
    assert torch.equal(found["fc8.bias"], drawn["classifier.6.bias"])
    assert found["fc6.0.weight"].shape == (4096, 512, 7, 7)
    del drawn["features.0.bias"]
    with pytest.raises(ValueError, match=r"not the weights of vgg16: .* missing \(1\)"):
        convert(drawn, "vgg16")


def test_vgg_is_read_from_caffe():
    with torch.device("meta"):
        ours = build("vgg16", 3).state_dict()
    state = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in ours.items()}
    state["conv5_3.0.bias"], state["fc6.0.bias"] = torch.randn(512), torch.randn(4096)
    blobs = {"/".join((key.split(".")[0], str(int(key.endswith("bias"))))): tensor
             for key, tensor in state.items()}  # fmt: skip
    conversion = convert(blobs, "vgg16")
    assert conversion.source == "Caffe's model collection"
    assert torch.equal(conversion.state["fc6.0.bias"], blobs["fc6/1"])
    assert torch.equal(conversion.state["conv5_3.0.bias"], blobs["conv5_3/1"])


def test_baselines_without_such_weights_are_refused(googlenet):
    with pytest.raises(ValueError, match=r"torchvision's googlenet is another network"):
        convert({"conv1.conv.weight": torch.zeros(1)}, "googlenet")
    with pytest.raises(ValueError, match="cannot be converted to nin"):
        convert({}, "nin")
    blobs = {f"{name}/{i}": t for name, both in as_caffe(googlenet).items()
             for i, t in enumerate(both)}  # fmt: skip
    blobs["inception_3a/1x1/0"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"inception_3a/1x1/0 is \(3, 3\)"):
        convert(blobs, "googlenet")
