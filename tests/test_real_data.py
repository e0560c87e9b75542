"""What must hold on real pictures and on weights that nobody here made; see CONTRIBUTING.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import residual
from residual.locks import kernel_lock
from residual.weights.published import shipped_files

SHARED = os.environ.get("RESIDUAL_SHARED", "")
needs_shared = pytest.mark.skipif(
    not SHARED, reason="needs RESIDUAL_SHARED: CIFAR-10 and foreign weights"
)


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory) -> Path:
    """A folder with CIFAR-10, unpacked once for all processes of these tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "cifar10.lock").open("w") as lock:
        kernel_lock(lock.fileno(), wait=True)
        if not (folder / "unpacked").exists():
            unpack = [sys.executable, Path(SHARED) / "unpack_cifar10.py", folder]
            subprocess.run(unpack, check=True)
            (folder / "unpacked").touch()
    return folder


@needs_shared
@pytest.mark.parametrize(
    ("network", "file", "wrong"),
    [("resnet20", "resnet20-12fca82f.th", 827), ("resnet56", "resnet56-4bfd9763.th", 661)],
)
def test_foreign_weights_are_wrong_on_as_many_test_images_as_their_authors_say(
    command, cifar10, tmp_path, network, file, wrong
):
    weights, out = Path(SHARED) / "weights" / file, tmp_path / "foreign"
    converted = command("convert", weights, "--network", network, "--out", out)
    assert converted.status == 0, converted.err
    judged = command("evaluate", out, "--data", "cifar10", "--root", cifar10, "--json")
    assert judged.status == 0, judged.err
    assert (judged.json["seen"], judged.json["wrong_top1"]) == (10_000, wrong)
    assert judged.json["error_top1"] == pytest.approx(wrong / 100)


@needs_shared
def test_plain20_has_the_shapes_of_the_foreign_resnet20_and_refuses_its_weights(command, tmp_path):
    weights = Path(SHARED) / "weights" / "resnet20-12fca82f.th"
    refused = command("convert", weights, "--network", "plain20", "--out", tmp_path / "plain")
    assert refused.status == 1 and len(refused.err.splitlines()) == 1
    assert not (tmp_path / "plain").exists()


@needs_shared
def test_our_weights_are_wrong_on_as_many_test_images_as_their_card_says(cifar10):
    names = [name for name in shipped_files() if name.endswith(".cifar10")]
    assert names
    for name in names:
        net = residual.load(name)
        result = residual.evaluate(net, "cifar10", root=cifar10)
        assert result.record["data"]["fingerprint"] == net.card["data"]["fingerprint"]
        assert (result.seen, result.wrong_top1) == (net.card["seen"], net.card["wrong_top1"])
