"""Files of Caffe and Detectron are read, and the authors' release gives Caffe's scores here."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from release import DRAW, Blobs, blob, caffemodel, drawn, theirs, units
from torch import Tensor

from residual.data.normalization import Preprocessing
from residual.models.registry import build
from residual.weights.caffe import read_mean
from residual.weights.convert import Conversion, convert
from residual.weights.files import read
from residual.weights.layouts import LAYOUTS


@torch.no_grad()
def scores(conversion: Conversion, images: Tensor) -> Tensor:
    """Ours of the same images, through the preprocessing that the conversion asks for."""
    classes = conversion.state["fc.bias"].numel()
    net = build(conversion.network, classes)
    net.load_state_dict(conversion.state)
    std = torch.tensor(conversion.config.std).view(3, 1, 1)
    return net.eval()(Preprocessing(conversion.mean, std, (64, 64))(images))


IMAGES = torch.randint(0, 256, (2, 3, 64, 64), generator=DRAW, dtype=torch.uint8)


def agree(conversion: Conversion, expected: Tensor) -> bool:
    assert expected.isfinite().all() and expected.std() > 0.1
    apart = (scores(conversion, IMAGES) - expected).abs().max() / expected.abs().max()
    return bool(apart < 1e-4)


@pytest.fixture(scope="module")
def layers() -> Blobs:
    """ResNet-50, at random. No test may change it."""
    return drawn(50)


@pytest.fixture(scope="module")
def file(layers: Blobs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("release") / "ResNet-50-model.caffemodel"
    path.write_bytes(caffemodel(layers))
    return path


@pytest.fixture(scope="module")
def conversion(file: Path) -> Conversion:
    return convert(read(file), "resnet50")


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["packed", "old", "double"])
def test_each_way_of_writing_a_blob_is_read(tmp_path, form):
    mean = torch.randn(3, 5, 300, generator=DRAW)
    (tmp_path / "m").write_bytes(blob(mean, form))
    assert torch.equal(read_mean(tmp_path / "m"), mean)


def test_a_damaged_caffemodel_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "net.caffemodel"
    whole = caffemodel({"conv1": [torch.zeros(2, 3)], "fc1000": [torch.zeros(3), torch.zeros(3)]})
    file.write_bytes(whole)
    assert set(read(file)) == {"conv1/0", "fc1000/0", "fc1000/1"}
    refused = 0
    for end in range(1, len(whole)):
        file.write_bytes(whole[:end])
        try:
            read(file)
        except ValueError as error:
            assert "net.caffemodel" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused == len(whole) - 3  # nothing is seen where a cut is right after a layer
    for spoilt in (b"\xff" * 100, b"no protocol buffer at all", bytes(100)):
        file.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"net\.caffemodel (is damaged|holds no layer)"):
            read(file)


def test_a_mean_image_that_is_none_is_refused(tmp_path):
    file = tmp_path / "m.binaryproto"
    with pytest.raises(FileNotFoundError, match=r"no mean image .*m\.binaryproto"):
        read_mean(file)
    for spoilt in (b"\xff\xff", blob(torch.zeros(3)), blob(torch.zeros(1, 4, 4)), b""):
        file.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"m\.binaryproto (is damaged|holds no mean image)"):
            read_mean(file)


# ---- the release itself -------------------------------------------------------------------------


def test_a_caffemodel_gives_the_scores_that_caffe_gives(layers, conversion):
    assert conversion.source == "the authors' release"
    assert agree(conversion, theirs(layers, 50, IMAGES))
    assert len(conversion.mapped) == sum(map(len, layers.values()))
    assert ("res4f_branch2b/0", "conv4_x.5.branch.2.0.weight") in conversion.mapped
    assert ("bn2a_branch1/2", "conv2_x.0.shortcut.1.factor") in conversion.mapped


@pytest.mark.parametrize("what", ["conv1", "bn3a_branch1", "colours", "stride"])
def test_each_of_caffes_peculiarities_is_seen_in_the_scores(layers, conversion, what):
    changed, images = dict(layers), IMAGES
    match what:
        case "conv1":  # without its bias
            changed["conv1"] = layers["conv1"][:1]
        case "bn3a_branch1":  # without the division
            mean, var, _ = layers[what]
            changed[what] = [mean, var, torch.ones(1)]
        case "colours":
            images = IMAGES.flip(1)
        case "stride":
            later = replace(conversion, network="resnet50-v1.5")
            assert not agree(later, theirs(layers, 50, IMAGES))
            return
    assert not agree(conversion, theirs(changed, 50, images))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_each_name_of_a_prototxt_is_one_of_ours_and_none_is_left_over(depth):
    endings = [ending for ending, *_ in units(depth)]
    names = ["conv1/0", "fc1000/0", "fc1000/1", *(f"res{ending}/0" for ending in endings)]
    for ending in ("_conv1", *endings):
        names += [f"{kind}{ending}/{i}" for kind in ("bn", "scale") for i in (0, 1)]
    (release,) = (layout for layout in LAYOUTS if layout.source == "the authors' release")
    found = [release.name(name) for name in names]
    with torch.device("meta"):
        ours = build(f"resnet{depth}").state_dict()
    assert sorted(map(str, found)) == sorted(key for key in ours if "num_batches" not in key)


def test_a_resnet_101_has_its_blocks_in_order():
    # 101 and 152 number the blocks of stages 3 and 4, from b1 on.
    blobs = drawn(101)
    raw = {f"{name}/{i}": each for name, own in blobs.items() for i, each in enumerate(own)}
    assert agree(convert(raw, "resnet101"), theirs(blobs, 101, IMAGES))


def test_the_mean_image_is_subtracted_pixel_by_pixel(layers, conversion, tmp_path):
    mean = torch.rand(3, 64, 64, generator=DRAW) * 100 + 70
    (tmp_path / "m.binaryproto").write_bytes(blob(mean[None], "old"))
    small = replace(conversion, config=conversion.config.with_view(64, 64))
    less = small.with_mean_image(tmp_path / "m.binaryproto")
    assert agree(less, theirs(layers, 50, IMAGES, mean))
    assert not agree(less, theirs(layers, 50, IMAGES))
    with pytest.raises(ValueError, match="a mean image of 64x64 pixels, and a picture has 224x224"):
        conversion.with_mean_image(tmp_path / "m.binaryproto")
    other = replace(conversion, source="torchvision or timm")
    with pytest.raises(ValueError, match="a mean image belongs to the authors' release"):
        other.with_mean_image(tmp_path / "m.binaryproto")


def test_caffes_pooling_is_ours_of_a_picture_moved_by_two_pixels_but_for_the_border(layers):
    image = IMAGES[:1].float()
    weight = layers["conv1"][0]

    def convolved(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, stride=2, padding=3)

    caffes = F.max_pool2d(convolved(image), 3, stride=2, ceil_mode=True)
    ours = F.max_pool2d(convolved(image), 3, stride=2, padding=1)
    moved = F.max_pool2d(convolved(image.roll((-2, -2), (2, 3))), 3, stride=2, padding=1)
    assert caffes.shape == ours.shape
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(moved[inside], caffes[inside])
    assert (ours[inside] - caffes[inside]).abs().max() > 0.1


def test_the_conversion_says_what_it_could_not_take_over(conversion, tmp_path):
    assert len(conversion.notices) == 2
    assert "--mean ResNet_mean.binaryproto" in conversion.notices[0]
    assert "max pooling" in conversion.notices[1]
    (tmp_path / "m").write_bytes(blob(torch.zeros(3, 224, 224)))
    assert conversion.with_mean_image(tmp_path / "m").notices == conversion.notices[1:]
    assert (conversion.config.shorter, conversion.config.size) == (256, (224, 224))


# ---- Detectron and detectron2 -------------------------------------------------------------------

UNIT = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}


def detectrons(layers: Blobs, folded: bool, later: bool, head: str) -> dict[str, np.ndarray]:
    """The same weights under the names of Detectron or detectron2, with or without statistics."""
    found: dict[str, Tensor] = {}
    for ending in ["conv1", *(ending for ending, *_ in units(50))]:
        first = ending == "conv1"
        stage, branch = ending[:2], ending.rpartition("_branch")[2]
        place = f"res{stage[0]}_{'abcdef'.find(stage[1])}_branch{branch}"
        module = f"res{stage[0]}.{'abcdef'.find(stage[1])}.{UNIT.get(branch)}"
        conv, norm = ("conv1", "res_conv1_bn") if first else (place, f"{place}_bn")
        module = "stem.conv1" if first else module
        weight, *bias = layers["conv1" if first else f"res{ending}"]
        inner = "_conv1" if first else ending
        mean, var, factor = layers[f"bn{inner}"]
        gamma, beta = layers[f"scale{inner}"]
        mean, var = mean / factor, var / factor
        found[f"{module}.weight" if later else f"{conv}_w"] = weight
        if bias:
            found[f"{module}.bias" if later else f"{conv}_b"] = bias[0]
        if folded:
            deviation = (var + 1e-5).sqrt()
            gamma, beta = gamma / deviation, beta - mean * gamma / deviation
        dots = (f"{module}.norm.weight", f"{module}.norm.bias")
        names = dots if later else (f"{norm}_s", f"{norm}_b")
        if not folded and not later:
            names = (f"{norm}_gamma", f"{norm}_beta")
        found |= dict(zip(names, (gamma, beta), strict=True))
        if not folded:
            way = f"{module}.norm.running" if later else f"{norm}_running"
            found |= {f"{way}_mean": mean, f"{way}_var": var}
    found[f"{head}.weight" if later else f"{head}_w"] = layers["fc1000"][0]
    found[f"{head}.bias" if later else f"{head}_b"] = layers["fc1000"][1]
    return {key: tensor.numpy() for key, tensor in found.items()}


@pytest.mark.parametrize(
    ("folded", "later"), [(True, False), (False, False), (True, True), (False, True)]
)
def test_the_release_comes_through_detectron_unharmed(layers, tmp_path, folded, later):
    blobs = detectrons(layers, folded, later, "fc1000")
    content = {"model": blobs, "__author__": "MSRA"} if later else {"blobs": blobs}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    conversion = convert(read(tmp_path / "R-50.pkl"), "resnet50")
    assert conversion.source == "the authors' release as Detectron has it"
    assert agree(conversion, theirs(layers, 50, IMAGES))


def test_the_last_layer_tells_where_detectrons_weights_come_from(layers):
    caffe2 = detectrons(layers, False, False, "pred")
    torchvisions = detectrons(layers, False, True, "stem.fc")
    del torchvisions["stem.conv1.bias"]
    for blobs, source, turned in (
        (caffe2, "Caffe2 as Detectron has it", True),
        (torchvisions, "torchvision as detectron2 has it", False),
    ):
        state = {key: torch.tensor(value) for key, value in blobs.items()}
        with pytest.raises(ValueError, match=f"{source} are of the variant v1.5"):
            convert(state, "resnet50")
        conversion = convert(state, "resnet50-v1.5")
        assert conversion.source == source
        assert conversion.config.mean == (0.485, 0.456, 0.406)
        first, red = conversion.state["conv1.0.0.weight"], 2 if turned else 0
        assert torch.equal(first[:, 0], layers["conv1"][0][:, red])


@pytest.mark.parametrize("later", [False, True])
def test_the_body_of_a_detector_has_no_classifier(layers, later):
    blobs = detectrons(layers, True, later, "fc1000")
    state = {k: torch.tensor(v) for k, v in blobs.items() if not k.startswith("fc1000")}
    with pytest.raises(ValueError, match="these weights have no classifier") as refused:
        convert(state | {"rpn_cls_logits_w": torch.zeros(1)}, "resnet50")
    assert "\n" not in str(refused.value)


# ---- what is refused ----------------------------------------------------------------------------


def flat(layers: Blobs) -> dict[str, Tensor]:
    return {f"{name}/{i}": each for name, own in layers.items() for i, each in enumerate(own)}


def test_the_release_never_fills_the_later_variant(layers):
    with pytest.raises(
        ValueError, match="of the variant v1, .* first 1x1 .*: convert them to resnet50$"
    ):
        convert(flat(layers), "resnet50-v1.5")
    with pytest.raises(ValueError, match="has no plain34; it has resnet50, resnet101 and"):
        convert(flat(layers), "plain34")


def test_the_release_of_another_depth_is_refused_and_its_depth_said(layers):
    with pytest.raises(ValueError) as refused:
        convert(flat(layers), "resnet101")
    assert str(refused.value) == (
        "nothing is converted, for these are not the weights of resnet101, but look like those of "
        "a network of 50 layers: 321 keys mapped; missing (255): conv4_x.6.branch.0.0.weight, "
        "conv4_x.6.branch.0.1.weight, conv4_x.6.branch.0.1.bias and 252 more"
    )


def test_statistics_are_missing_nowhere_or_everywhere(layers):
    part = {k: v for k, v in flat(layers).items() if not k.startswith("bn3a_branch1/")}
    with pytest.raises(ValueError, match=r"missing \(2\): conv3_x\.0\.shortcut\.1\.running_mean"):
        convert(part, "resnet50")


def test_a_blob_of_another_shape_is_named(layers):
    for key, shape in (("bn_conv1/2", (2,)), ("conv1/1", (3,)), ("fc1000/0", (10, 7))):
        with pytest.raises(ValueError, match=rf"{key} is \({shape[0]}.* instead of"):
            convert(flat(layers) | {key: torch.zeros(shape)}, "resnet50")


# ---- by the command -----------------------------------------------------------------------------


def test_the_command_converts_the_release_for_every_other_command(command, file, layers, tmp_path):
    from PIL import Image

    mean = torch.rand(3, 224, 224, generator=DRAW) * 100 + 70
    (tmp_path / "mean.binaryproto").write_bytes(blob(mean))
    words = ("convert", file, "--network", "resnet50", "--out", tmp_path / "ours")
    answer = command(*words, "--mean", tmp_path / "mean.binaryproto")
    assert answer.status == 0, answer.err
    assert "conv1/1 -> conv1.0.0.bias" in answer.out
    assert "weights of the authors' release, 321 keys mapped, 0 missing" in answer.out
    assert "Caffe's max pooling" in answer.err
    picture = torch.randint(0, 256, (256, 300, 3), generator=DRAW, dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "p.png")
    (found,) = command("predict", tmp_path / "ours", tmp_path / "p.png", "--json").json
    crop = picture.permute(2, 0, 1)[None, :, 16:240, 38:262]
    expected = theirs(layers, 50, crop, mean).softmax(dim=1)[0]
    for answer in found["labels"]:
        assert answer["probability"] == pytest.approx(
            float(expected[int(answer["label"])]), abs=1e-4
        )
