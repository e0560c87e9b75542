"""Public weights are fetched from a server of our own, checked, converted and kept."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import typer

from residual.cli.convert import convert
from residual.runs.load import load
from residual.weights import fetch, published
from residual.weights.fetch import obtained
from residual.weights.published import Card, Published

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
        card = Card("these are torchvision's", shorter=232, classes=("a", "b", "c"))
        known = Published(NAME, "resnet18", f"{url}/{file.name}", card)
        for module in (fetch, published):
            monkeypatch.setattr(module, "torchvisions", lambda: {NAME: known})
        return known

    yield publish
    server.shutdown()
    server.server_close()


def test_public_weights_are_fetched_once_converted_and_kept(serve, tmp_path):
    serve()
    reports: list[tuple[int, int]] = []
    kept = obtained(NAME, tmp_path, lambda *report: reports.append(report))
    assert kept == tmp_path / "weights" / f"{NAME}.safetensors"
    assert reports[-1][0] == reports[-1][1] > 40_000_000
    net = load(kept)
    assert (net.network, net.classes) == ("resnet18", ("a", "b", "c"))
    assert (net.preprocessing.size, net.preprocessing.shorter) == ((224, 224), 232)
    serve(alive=False)
    assert obtained("ResNet18_Weights.IMAGENET1K_V1", tmp_path) == kept


def test_without_a_network_it_is_said_where_to_put_the_file_and_there_it_is_found(
    serve, far, tmp_path
):
    known = serve(alive=False)
    place = tmp_path / "weights" / known.file
    with pytest.raises(OSError, match=rf"could not be fetched .* put it at {place}") as refused:
        obtained(NAME, tmp_path)
    assert "\n" not in str(refused.value)
    place.write_bytes((far / known.file).read_bytes())
    assert load(obtained(NAME, tmp_path)).network == "resnet18"


def test_a_damaged_file_is_named_and_never_converted(serve, far, tmp_path):
    known = serve()
    place = tmp_path / "weights" / known.file
    place.parent.mkdir()
    place.write_bytes((far / known.file).read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{place} is damaged or incomplete .*{known.sha256}\)"):
        obtained(NAME, tmp_path)
    assert list(place.parent.iterdir()) == [place]


def test_what_a_server_gives_out_under_the_name_is_not_trusted(serve, far, tmp_path, monkeypatch):
    known = serve()
    other = Published(NAME, "resnet18", known.url.replace(known.sha256, "00000000"), known.card)
    monkeypatch.setattr(fetch, "torchvisions", lambda: {NAME: other})
    (far / other.file).write_bytes(b"other weights")
    try:
        with pytest.raises(OSError, match="what came has the wrong checksum"):
            obtained(NAME, tmp_path)
    finally:
        (far / other.file).unlink()
    assert not list((tmp_path / "weights").iterdir())


def test_a_file_or_a_run_of_ours_is_taken_as_it_is(serve, tmp_path):
    serve()
    kept = obtained(NAME, tmp_path)
    assert obtained(str(kept), tmp_path) == kept
    (tmp_path / "recipe.json").write_text("{}")
    assert obtained(str(tmp_path), tmp_path) == tmp_path


def test_a_foreign_file_is_to_be_converted_first(far, tmp_path):
    (file,) = far.iterdir()
    with pytest.raises(ValueError, match=rf"first: residual convert {file} --network"):
        obtained(str(file), tmp_path)
    with pytest.raises(ValueError, match="is a folder, and no run"):
        obtained(str(far), tmp_path)


def test_a_name_that_is_none_lists_those_that_are(tmp_path):
    with pytest.raises(
        ValueError, match=r"no file resnet51, .* resnet152\.IMAGENET1K_V2, vgg16.*V1$"
    ):
        obtained("resnet51", tmp_path)


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
