"""What must hold on real pictures and on weights that nobody here made; see CONTRIBUTING.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from archives import unpack

import residual
from residual.weights.published import shipped_files

SHARED = os.environ.get("RESIDUAL_SHARED", "")
needs_shared = pytest.mark.skipif(
    not SHARED, reason="needs RESIDUAL_SHARED: the JPEG copy of CIFAR-10 and foreign weights"
)


@pytest.fixture(scope="module")
def test_pictures(tmp_path_factory) -> Path:
    """All 10,000 test pictures of the JPEG copy, and one of each class to stand for its train/."""
    folder = tmp_path_factory.mktemp("jpeg")
    unpack(
        Path(SHARED) / "cifar10-jpeg.tar.xz",
        folder,
        lambda name: "/test/" in name or name.endswith("/0000.jpg"),
    )
    return folder / "cifar10-jpeg"


@needs_shared
def test_the_foreign_resnet20_is_wrong_on_exactly_1897_test_pictures(
    command, test_pictures, tmp_path
):
    weights, out = Path(SHARED) / "weights" / "resnet20-12fca82f.th", tmp_path / "foreign"
    converted = command("convert", weights, "--network", "resnet20", "--out", out)
    assert converted.status == 0, converted.err
    judged = command("evaluate", out, "--data", test_pictures, "--root", tmp_path, "--json")
    assert judged.status == 0, judged.err
    assert (judged.json["seen"], judged.json["wrong_top1"]) == (10_000, 1_897)
    assert judged.json["error_top1"] == pytest.approx(18.97)


@needs_shared
def test_plain20_has_the_shapes_of_the_foreign_resnet20_and_refuses_its_weights(command, tmp_path):
    weights = Path(SHARED) / "weights" / "resnet20-12fca82f.th"
    refused = command("convert", weights, "--network", "plain20", "--out", tmp_path / "plain")
    assert refused.status == 1 and len(refused.err.splitlines()) == 1
    assert not (tmp_path / "plain").exists()


@needs_shared
def test_our_weights_are_wrong_on_as_many_test_pictures_as_their_card_says(tmp_path):
    """Of CIFAR-10 itself, in RESIDUAL_SHARED."""
    subprocess.run([sys.executable, Path(SHARED) / "unpack_cifar10.py", tmp_path], check=True)
    names = [name for name in shipped_files() if name.endswith(".cifar10")]
    assert names
    for name in names:
        net = residual.load(name)
        result = residual.evaluate(net, "cifar10", root=tmp_path)
        assert result.record["data"]["fingerprint"] == net.card["data"]["fingerprint"]
        assert (result.seen, result.wrong_top1) == (net.card["seen"], net.card["wrong_top1"])
