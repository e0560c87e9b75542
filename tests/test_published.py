"""Preprocessing and classes of published weights; torchvision's files are downloaded once."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import typer

from residual.cli.convert import convert
from residual.models.registry import build
from residual.tasks.classification.load import load
from residual.weights import published
from residual.weights.convert import find_or_download
from residual.weights.published import (
    UNKNOWN,
    PretrainedConfig,
    Published,
    config_of,
    torchvision_files,
)


def test_torchvision_gives_out_two_kinds_of_weights_for_the_deep_networks():
    known = torchvision_files()
    assert [name for name in known if name.endswith("V2")] == [
        f"resnet{depth}.IMAGENET1K_V2" for depth in (50, 101, 152)
    ]
    assert len(known) == 8 + 2  # and VGG-16 and VGG-19
    for name, each in known.items():
        assert each.config.shorter == (232 if name.endswith("V2") else 256)
        assert each.config.size == (224, 224)
        assert each.config.classes is not None and each.config.classes[1] == "goldfish"
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
    card = PretrainedConfig("these are torchvision's", size=(224, 224), shorter=232)
    known = Published("resnet50.V9", "resnet50-v1.5", f"http://x/resnet50-{sha256}.pth", card)
    monkeypatch.setattr(published, "torchvision_files", lambda: {known.name: known})
    return known, content


def test_torchvisions_file_is_known_by_its_content_under_any_name(tiny, tmp_path):
    known, content = tiny
    for name in (known.file, "renamed.pth"):
        (tmp_path / name).write_bytes(content)
        assert config_of(tmp_path / name) == known.config
    (tmp_path / "renamed.pth").write_bytes(content + b"!")
    assert config_of(tmp_path / "renamed.pth") is None


def test_a_file_that_only_has_torchvisions_name_is_refused(tiny, tmp_path):
    known, content = tiny
    (tmp_path / known.file).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"has the name of torchvision's resnet50\.V9 and other"):
        config_of(tmp_path / known.file)


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
    card = config_of(timm_folder(tmp_path, A1, label_names=["a", "b", "c"]))
    assert card is not None
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (card.size, card.shorter, card.classes) == ((224, 224), 235, ("a", "b", "c"))
    assert "resizes by bicubic interpolation: here it is always bilinear" in card.says
    assert "--shorter 288 --size 288" in card.says


def test_the_view_is_the_one_that_timm_itself_would_take(tmp_path):
    data = pytest.importorskip("timm.data", reason="timm is not installed")
    for view in (A1, A1 | {"crop_pct": 0.875}, A1 | {"input_size": [3, 160, 160]}, {"tag": "a1"}):
        card = config_of(timm_folder(tmp_path, view))
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
    card = config_of(tmp_path / "w.bin")
    assert card is not None
    assert card.classes == ("cat", "dog")
    assert card.size == (224, 224)


def test_a_bilinear_view_has_nothing_to_be_said_about_its_interpolation(tmp_path):
    card = config_of(timm_folder(tmp_path, {"interpolation": "bilinear", "crop_mode": "squash"}))
    assert card is not None
    assert "interpolation" not in card.says
    assert "its crop mode is squash: here it is the centre" in card.says


def test_another_programs_config_says_nothing_and_a_damaged_one_is_named(tmp_path):
    file = timm_folder(tmp_path, A1)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert config_of(file) is None
    (tmp_path / "config.json").write_text('{"model_type"')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        config_of(file)
    for view in ("text", {"input_size": [224]}, {"mean": [1]}, {"crop_pct": "all"}):
        with pytest.raises(ValueError, match=r"config\.json is no config\.json of timm"):
            config_of(timm_folder(tmp_path, view))


def test_the_command_lines_view_replaces_any_other():
    assert UNKNOWN.with_view(None, None) is UNKNOWN
    assert UNKNOWN.with_view(None, 232).shorter == 232
    larger = UNKNOWN.with_view(288, 300)
    assert (larger.size, larger.shorter) == ((288, 288), 300)
    assert "assumed" not in larger.says
    with pytest.raises(ValueError, match="a centre of 288 pixels is not in .* 256; give both"):
        UNKNOWN.with_view(288, None)


# ---- downloads ----------------------------------------------------------------------------------

DEAD = "http://127.0.0.1:9"  # the port that discards
NAME = "resnet18.IMAGENET1K_V1"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def far(tmp_path_factory) -> Path:
    """The folder that the server gives out, with torchvision's file in it, weights at random."""
    from torchvision.models import resnet18

    folder = tmp_path_factory.mktemp("far")
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=3).state_dict(), folder / "new.pth")
    sha256 = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    (folder / "new.pth").rename(folder / f"resnet18-{sha256[:8]}.pth")
    return folder


@pytest.fixture
def serve(far, monkeypatch):
    """Makes torchvision's file come from our server, or from where there is none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(far)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(alive: bool = True) -> Published:
        (file,) = far.iterdir()
        url = f"http://127.0.0.1:{server.server_port}" if alive else DEAD
        card = PretrainedConfig("these are torchvision's", shorter=232, classes=("a", "b", "c"))
        known = Published(NAME, "resnet18", f"{url}/{file.name}", card)
        monkeypatch.setattr(published, "torchvision_files", lambda: {NAME: known})
        return known

    yield publish
    server.shutdown()
    server.server_close()


def test_public_weights_are_fetched_once_converted_and_kept(serve, tmp_path):
    serve()
    reports: list[tuple[int, int]] = []
    kept = find_or_download(NAME, tmp_path, lambda *report: reports.append(report))
    assert kept == tmp_path / "weights" / f"{NAME}.safetensors"
    assert reports[-1][0] == reports[-1][1] > 40_000_000
    net = load(kept)
    assert (net.network, net.classes) == ("resnet18", ("a", "b", "c"))
    assert (net.preprocessing.size, net.preprocessing.shorter) == ((224, 224), 232)
    serve(alive=False)
    assert find_or_download("ResNet18_Weights.IMAGENET1K_V1", tmp_path) == kept


def test_without_a_network_it_is_said_where_to_put_the_file_and_there_it_is_found(
    serve, far, tmp_path
):
    known = serve(alive=False)
    place = tmp_path / "weights" / known.file
    with pytest.raises(OSError, match=rf"could not be fetched .* put it at {place}") as refused:
        find_or_download(NAME, tmp_path)
    assert "\n" not in str(refused.value)
    place.write_bytes((far / known.file).read_bytes())
    assert load(find_or_download(NAME, tmp_path)).network == "resnet18"


def test_a_damaged_file_is_named_and_never_converted(serve, far, tmp_path):
    known = serve()
    place = tmp_path / "weights" / known.file
    place.parent.mkdir()
    place.write_bytes((far / known.file).read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{place} is damaged or incomplete .*{known.sha256}\)"):
        find_or_download(NAME, tmp_path)
    assert list(place.parent.iterdir()) == [place]


def test_what_a_server_gives_out_under_the_name_is_not_trusted(serve, far, tmp_path, monkeypatch):
    known = serve()
    other = Published(NAME, "resnet18", known.url.replace(known.sha256, "00000000"), known.config)
    monkeypatch.setattr(published, "torchvision_files", lambda: {NAME: other})
    (far / other.file).write_bytes(b"other weights")
    try:
        with pytest.raises(OSError, match="what came has the wrong checksum"):
            find_or_download(NAME, tmp_path)
    finally:
        (far / other.file).unlink()
    assert not list((tmp_path / "weights").iterdir())


def test_a_file_or_a_run_of_ours_is_taken_as_it_is(serve, tmp_path):
    serve()
    kept = find_or_download(NAME, tmp_path)
    assert find_or_download(str(kept), tmp_path) == kept
    (tmp_path / "recipe.json").write_text("{}")
    assert find_or_download(str(tmp_path), tmp_path) == tmp_path


def test_a_foreign_file_is_to_be_converted_first(far, tmp_path):
    (file,) = far.iterdir()
    with pytest.raises(ValueError, match=rf"first: residual convert {file} --network"):
        find_or_download(str(file), tmp_path)
    with pytest.raises(ValueError, match="is a folder, and no run"):
        find_or_download(str(far), tmp_path)


def test_a_name_that_is_none_lists_those_that_are(tmp_path):
    with pytest.raises(
        ValueError, match=r"no file resnet51, .* resnet152\.IMAGENET1K_V2, vgg16.*V1$"
    ):
        find_or_download("resnet51", tmp_path)


def test_the_command_converts_public_weights_for_the_network_that_they_are_for(
    serve, tmp_path, capsys
):
    serve()
    convert(tmp_path / "ours", weights=NAME, root=tmp_path, shorter=240)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "conv1.weight -> conv1.0.0.weight"
    assert out[-1].endswith(
        "resnet18, 3 classes, the centre 224x224 of pictures with a shorter side of 240"
    )
    net = load(tmp_path / "ours")
    assert (net.classes, net.preprocessing.shorter) == (("a", "b", "c"), 240)
    with pytest.raises(ValueError, match="not the weights of resnet34"):
        convert(tmp_path / "other", weights=NAME, network="resnet34", root=tmp_path)


def test_the_command_wants_a_file_or_a_name_and_a_network(tmp_path):
    for words in ({}, {"file": Path("a"), "weights": NAME}, {"file": Path("a")}):
        with pytest.raises(typer.BadParameter):
            convert(tmp_path / "ours", **words)
