"""Claims of data by name: the digits, CIFAR-10, folders."""

import hashlib
import io
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from residual.data.datasets import fingerprint
from residual.data.folder import KNOWN_NAMES
from residual.data.sources import (
    BINARY,
    CIFAR10_CLASSES,
    PYTHON,
    CifarFormat,
    cifar10,
    digits,
    load,
)


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


def test_there_are_1437_digits_to_train_on_and_360_to_be_tested_on():
    data = digits()
    assert (data.name, data.classes) == ("digits", tuple("0123456789"))
    assert (len(data.train), len(data.test), data.val) == (1437, 360, None)
    for images in (data.train, data.test):
        assert images.pixels.dtype == torch.uint8
        assert tuple(images.pixels.shape[1:]) == (3, 8, 8)
        assert (images.pixels == images.pixels[:, :1]).all()


def test_each_digit_of_scikit_learn_is_there_once_with_its_label():
    levels, numbers = load_digits(return_X_y=True)
    scaled = [[(int(v) * 255 + 8) // 16 for v in row] for row in levels]
    expected = sorted((*row, int(n)) for row, n in zip(scaled, numbers, strict=True))
    data = digits()
    found = [
        (*image[0].flatten().tolist(), label)
        for images in (data.train, data.test)
        for image, label in zip(images.pixels, images.labels.tolist(), strict=True)
    ]
    assert sorted(found) == expected


def test_the_split_is_stratified_and_fixed():
    data, again = digits(), digits()
    share = data.test.labels.bincount() / (
        data.train.labels.bincount() + data.test.labels.bincount()
    )
    assert ((share - 0.2).abs() < 0.004).all()
    assert data.fingerprint == again.fingerprint
    # Written down once: a library that splits in another way must not go unnoticed.
    assert data.fingerprint == "8f2361e10de8070c1f2fad07386e1bf8fb2e78f44a0ab848d477408a42c852f2"
    assert torch.equal(data.test.pixels, again.test.pixels)


N = 20  # images in a batch, in place of 10,000


def batch(number: int) -> tuple[np.ndarray, list[int]]:
    draw = np.random.default_rng(number)
    return draw.integers(0, 256, (N, 3072), dtype=np.uint8), draw.integers(0, 10, N).tolist()


def old_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and its numpy wrote it, instruction by instruction."""

    def text(value: bytes) -> bytes:  # Python 2's str: SHORT_BINSTRING or BINSTRING
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + len(value).to_bytes(4, "little") + value

    small = (b"K" + bytes([label]) for label in labels)
    shape = b"".join(b"M" + side.to_bytes(2, "little") for side in pixels.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    )
    array += b"(K\x01" + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    entries = (
        *(text(b"batch_label"), text(b"training batch 1 of 5")),
        *(text(b"labels"), b"](" + b"".join(small) + b"e"),
        *(text(b"data"), array),
    )
    return b"\x80\x02}(" + b"".join(entries) + b"u."


def new_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The same, written again by Python 3."""
    return pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2)


def records(pixels: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(
        bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True)
    )


def pack(place: Path, form: CifarFormat, write=None) -> CifarFormat:
    """A small archive of this form, and the form that describes it."""
    write = write or (old_pickle if form.folder == PYTHON.folder else records)
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / form.archive, "w:gz") as archive:
        for number, name in reversed(list(enumerate(form.batches))):  # any order will do
            raw = write(*batch(number))
            member = tarfile.TarInfo(f"{form.folder}/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    md5 = hashlib.md5((place / form.archive).read_bytes()).hexdigest()
    return replace(form, images=N, md5=md5)


def unpack(place: Path, form: CifarFormat) -> CifarFormat:
    small = pack(place, form)
    archives.unpack(place / form.archive, place)
    (place / form.archive).unlink()
    return small


def load_cifar(root: Path, *forms: CifarFormat, mirrors: tuple[str, ...] = ()):
    return cifar10(root, forms=forms, mirrors=mirrors)


@pytest.mark.parametrize("below", ["", "cifar10"])
@pytest.mark.parametrize("lay", [pack, unpack])
@pytest.mark.parametrize("form", [PYTHON, BINARY])
def test_a_copy_is_found_in_either_form_packed_or_not(tmp_path, form, lay, below):
    data = load_cifar(tmp_path, lay(tmp_path / below, form))
    assert (data.name, data.classes, data.val) == ("CIFAR-10", CIFAR10_CLASSES, None)
    expected = [batch(number) for number in range(6)]
    pixels = np.concatenate([pixels for pixels, _ in expected]).reshape(-1, 3, 32, 32)
    labels = [label for _, labels in expected for label in labels]
    assert (data.train.pixels.numpy() == pixels[: 5 * N]).all()
    assert (data.test.pixels.numpy() == pixels[5 * N :]).all()
    assert data.train.labels.tolist() == labels[: 5 * N]
    assert data.test.labels.tolist() == labels[5 * N :]
    assert (data.train.pixels.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)


def test_all_copies_have_one_fingerprint(tmp_path):
    small = [(lay, form) for lay in (pack, unpack) for form in (PYTHON, BINARY)]
    marks = {
        load_cifar(tmp_path / str(i), lay(tmp_path / str(i), form)).fingerprint
        for i, (lay, form) in enumerate(small)
    }
    marks.add(load_cifar(tmp_path / "new", pack(tmp_path / "new", PYTHON, new_pickle)).fingerprint)
    assert len(marks) == 1


# ---- damage -------------------------------------------------------------------------------------


class Harm:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_never_executes(tmp_path, protocol):
    small = unpack(tmp_path, PYTHON)
    mark = tmp_path / "harmed"
    raw = pickle.dumps({b"data": Harm(mark), b"labels": []}, protocol=protocol)
    (tmp_path / PYTHON.folder / "data_batch_2").write_bytes(raw)
    with pytest.raises(ValueError, match=r"data_batch_2 in .* asks for (posix|nt)\.mkdir"):
        load_cifar(tmp_path, small)
    assert not mark.exists()
    pickle.loads(raw)  # the proof that it is malicious
    assert mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "numpy load", "numpy ndarray.dumps", "os system"]
)
def test_no_other_name_is_looked_up(tmp_path, name):
    small = unpack(tmp_path, PYTHON)
    module, attribute = name.split()
    raw = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)
    )
    (tmp_path / PYTHON.folder / "test_batch").write_bytes(raw + b"\x93.")
    with pytest.raises(ValueError, match=rf"test_batch in .* asks for {module}\.{attribute}"):
        load_cifar(tmp_path, small)


@pytest.mark.parametrize("form", [PYTHON, BINARY])
def test_a_damaged_archive_is_named_with_what_to_do(tmp_path, form):
    small = pack(tmp_path, form)
    archive = tmp_path / form.archive
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"{form.archive} is damaged or incomplete .*delete it"):
        load_cifar(tmp_path, small)


@pytest.mark.parametrize("form", [PYTHON, BINARY])
def test_a_damaged_batch_is_named_with_what_to_do(tmp_path, form):
    small = unpack(tmp_path, form)
    file = tmp_path / form.folder / form.batches[2]
    raw = file.read_bytes()
    for spoilt in (b"", raw[: len(raw) // 2], raw[: 3073 * 7], b"text " * 100):
        file.write_bytes(spoilt)
        with pytest.raises(
            ValueError, match=rf"{file.name} in .* is damaged: .*; delete .*{form.folder}"
        ):
            load_cifar(tmp_path, small)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{form.folder} is incomplete, it has no {file.name}"):
        load_cifar(tmp_path, small)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (batch(0)[0][:, :3000], batch(0)[1]),
        (batch(0)[0].astype(np.int16), batch(0)[1]),
        (batch(0)[0], batch(0)[1][1:]),
        (batch(0)[0], [10] * N),
        ("text", batch(0)[1]),
    ],
)
def test_a_batch_of_another_shape_is_refused(tmp_path, pixels, labels):
    small = unpack(tmp_path, PYTHON)
    (tmp_path / PYTHON.folder / "test_batch").write_bytes(new_pickle(pixels, labels))
    with pytest.raises(ValueError, match=r"test_batch in .* is damaged"):
        load_cifar(tmp_path, small)


# ---- fetching -----------------------------------------------------------------------------------

DEAD = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # the port that discards


def test_cifar10_is_fetched_once_checked_and_used(tmp_path):
    small = pack(tmp_path / "far", PYTHON)
    mirrors = (DEAD, (tmp_path / "far" / PYTHON.archive).as_uri())
    data = [load_cifar(tmp_path / "near", small, mirrors=mirrors)]
    data.append(load_cifar(tmp_path / "near", small, mirrors=()))
    assert data[0].fingerprint == data[1].fingerprint
    assert [file.name for file in (tmp_path / "near").iterdir()] == [PYTHON.archive]


def test_a_blocked_network_says_where_to_put_the_file(tmp_path):
    small = pack(tmp_path / "far", PYTHON)
    with pytest.raises(
        OSError, match=rf"could not be fetched \(127.* put it at .*{PYTHON.archive}"
    ):
        load_cifar(tmp_path / "near", small, mirrors=(DEAD,))
    shutil.copy(tmp_path / "far" / PYTHON.archive, tmp_path / "near")
    assert load_cifar(tmp_path / "near", small).name == "CIFAR-10"
