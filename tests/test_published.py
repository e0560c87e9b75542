"""What publishers say of their weights is found and taken over, and else its lack is said."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from residual.models.registry import build
from residual.weights import published
from residual.weights.published import UNKNOWN, Card, Published, card_of, torchvisions


def test_torchvision_gives_out_two_kinds_of_weights_for_the_deep_networks():
    known = torchvisions()
    assert [name for name in known if name.endswith("V2")] == [
        f"resnet{depth}.IMAGENET1K_V2" for depth in (50, 101, 152)
    ]
    assert len(known) == 8 + 2  # and VGG-16 and VGG-19
    for name, each in known.items():
        assert each.card.shorter == (232 if name.endswith("V2") else 256)
        assert each.card.size == (224, 224)
        assert each.card.classes is not None and each.card.classes[1] == "goldfish"
        assert int(each.sha256, 16) and len(each.sha256) == 8
        with torch.device("meta"):
            build(each.network)
        one_variant = name.startswith(("resnet18", "resnet34", "vgg"))
        assert each.network.endswith("-v1.5") == (not one_variant)


@pytest.fixture
def tiny(monkeypatch) -> tuple[Published, bytes]:
    """A file that torchvision gives out, as far as the code can see."""
    content = b"weights of seven bytes, or some more"
    sha256 = hashlib.sha256(content).hexdigest()[:8]
    card = Card("these are torchvision's", size=(224, 224), shorter=232)
    known = Published("resnet50.V9", "resnet50-v1.5", f"http://x/resnet50-{sha256}.pth", card)
    monkeypatch.setattr(published, "torchvisions", lambda: {known.name: known})
    return known, content


def test_torchvisions_file_is_known_by_its_content_under_any_name(tiny, tmp_path):
    known, content = tiny
    for name in (known.file, "renamed.pth"):
        (tmp_path / name).write_bytes(content)
        assert card_of(tmp_path / name) == known.card
    (tmp_path / "renamed.pth").write_bytes(content + b"!")
    assert card_of(tmp_path / "renamed.pth") is None


def test_a_file_that_only_has_torchvisions_name_is_refused(tiny, tmp_path):
    known, content = tiny
    (tmp_path / known.file).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"has the name of torchvision's resnet50\.V9 and other"):
        card_of(tmp_path / known.file)


def timm_folder(folder: Path, view: object, **further: object) -> Path:
    config = {"architecture": "resnet50", "num_classes": 3, "pretrained_cfg": view, **further}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"any")
    return folder / "model.safetensors"


A1 = {
    "input_size": [3, 224, 224], "test_input_size": [3, 288, 288],
    "interpolation": "bicubic", "crop_pct": 0.95, "test_crop_pct": 1.0, "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4],
}  # fmt: skip


def test_timms_config_beside_a_file_is_taken_over(tmp_path):
    card = card_of(timm_folder(tmp_path, A1, label_names=["a", "b", "c"]))
    assert card is not None
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (card.size, card.shorter, card.classes) == ((224, 224), 235, ("a", "b", "c"))
    assert "resizes by bicubic interpolation: here it is bilinear" in card.says
    assert "--shorter 288 --size 288" in card.says


def test_the_view_is_the_one_that_timm_itself_would_take(tmp_path):
    data = pytest.importorskip("timm.data", reason="timm is not installed")
    for view in (A1, A1 | {"crop_pct": 0.875}, A1 | {"input_size": [3, 160, 160]}, {"tag": "a1"}):
        card = card_of(timm_folder(tmp_path, view))
        right = data.resolve_data_config({}, pretrained_cfg=view)
        steps = data.create_transform(**right).transforms
        assert card is not None
        assert (card.shorter, card.size) == (steps[0].size, tuple(steps[1].size))
        assert steps[-1].mean.tolist() == pytest.approx(card.mean)
        assert steps[-1].std.tolist() == pytest.approx(card.std)


def test_the_configuration_that_timm_writes_is_understood(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from timm.models._hub import save_config_for_hf

    with torch.device("meta"):
        net = timm.create_model("resnet18", num_classes=2)
    labels = {"label_names": {0: "cat", 1: "dog"}}
    save_config_for_hf(net, str(tmp_path / "config.json"), model_config=labels)
    (tmp_path / "w.bin").write_bytes(b"any")
    card = card_of(tmp_path / "w.bin")
    assert card is not None
    assert card.classes == ("cat", "dog")
    assert card.size == (224, 224)


def test_a_bilinear_view_has_nothing_to_be_said_about_its_interpolation(tmp_path):
    card = card_of(timm_folder(tmp_path, {"interpolation": "bilinear", "crop_mode": "squash"}))
    assert card is not None
    assert "interpolation" not in card.says
    assert "its crop mode is squash: here it is the centre" in card.says


def test_another_programs_config_says_nothing_and_a_damaged_one_is_named(tmp_path):
    file = timm_folder(tmp_path, A1)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert card_of(file) is None
    (tmp_path / "config.json").write_text('{"model_type"')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        card_of(file)
    for view in ("text", {"input_size": [224]}, {"mean": [1]}, {"crop_pct": "all"}):
        with pytest.raises(ValueError, match=r"config\.json is no config\.json of timm"):
            card_of(timm_folder(tmp_path, view))


def test_the_command_lines_view_replaces_any_other():
    assert UNKNOWN.with_view(None, None) is UNKNOWN
    assert UNKNOWN.with_view(None, 232).shorter == 232
    larger = UNKNOWN.with_view(288, 300)
    assert (larger.size, larger.shorter) == ((288, 288), 300)
    assert "assumed" not in larger.says
    with pytest.raises(ValueError, match="a centre of 288 pixels is not in .* 256; give both"):
        UNKNOWN.with_view(288, None)
