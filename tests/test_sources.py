"""What sources.py claims: data by name, under the name that belongs to it."""

import hashlib
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from residual.data.datasets import fingerprint
from residual.data.folder import KNOWN_NAMES
from residual.data.sources import load


def test_data_are_loaded_by_name_or_from_a_folder(tmp_path, monkeypatch):
    for name in ("train", "test"):
        for colour in ("red", "blue"):
            (tmp_path / "colours" / name / colour).mkdir(parents=True)
            Image.new("RGB", (9, 9), colour).save(tmp_path / "colours" / name / colour / "1.png")
    assert load("digits", tmp_path).name == "digits"
    data = load(str(tmp_path / "colours"), tmp_path)
    assert (data.name, data.classes) == ("colours", ("blue", "red"))
    assert data.train.pixels[1].unique().tolist() == [0, 255]
    assert tuple(data.test.pixels.shape) == (2, 3, 32, 32)
    assert tuple(load(str(tmp_path / "colours"), tmp_path, size=8).test.pixels.shape[2:]) == (8, 8)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/colours", tmp_path).fingerprint == data.fingerprint


def test_an_unknown_name_is_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match="no data 'cifar': say digits, cifar10 or a folder"):
        load("cifar", tmp_path)


@pytest.mark.skipif("RESIDUAL_SHARED" not in os.environ, reason="RESIDUAL_SHARED is not set")
def test_the_jpeg_copy_is_known_and_never_called_cifar10():
    files = []
    with tarfile.open(Path(os.environ["RESIDUAL_SHARED"]) / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:
            if member.isfile():
                raw = archive.extractfile(member).read()
                _, name, kind, file = member.name.split("/")
                digest = hashlib.sha256(raw).hexdigest()
                files.append((f"{name}/{kind}/{file}", kind, len(raw), digest))
    assert len(files) == 60_000
    assert KNOWN_NAMES[fingerprint(files)] == "CIFAR-10 (JPEG copy)"
