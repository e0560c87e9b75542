"""What sources.py claims of CIFAR-10, on small archives made here."""

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

from residual.data.sources import BINARY, CIFAR10_CLASSES, PYTHON, CifarFormat, cifar10

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


def load(root: Path, *forms: CifarFormat, mirrors: tuple[str, ...] = ()):
    return cifar10(root, forms=forms, mirrors=mirrors)


@pytest.mark.parametrize("below", ["", "cifar10"])
@pytest.mark.parametrize("lay", [pack, unpack])
@pytest.mark.parametrize("form", [PYTHON, BINARY])
def test_a_copy_is_found_in_either_form_packed_or_not(tmp_path, form, lay, below):
    data = load(tmp_path, lay(tmp_path / below, form))
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
        load(tmp_path / str(i), lay(tmp_path / str(i), form)).fingerprint
        for i, (lay, form) in enumerate(small)
    }
    marks.add(load(tmp_path / "new", pack(tmp_path / "new", PYTHON, new_pickle)).fingerprint)
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
        load(tmp_path, small)
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
        load(tmp_path, small)


@pytest.mark.parametrize("form", [PYTHON, BINARY])
def test_a_damaged_archive_is_named_with_what_to_do(tmp_path, form):
    small = pack(tmp_path, form)
    archive = tmp_path / form.archive
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"{form.archive} is damaged or incomplete .*delete it"):
        load(tmp_path, small)


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
            load(tmp_path, small)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{form.folder} is incomplete, it has no {file.name}"):
        load(tmp_path, small)


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
        load(tmp_path, small)


# ---- fetching -----------------------------------------------------------------------------------

DEAD = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # the port that discards


def test_cifar10_is_fetched_once_checked_and_used(tmp_path):
    small = pack(tmp_path / "far", PYTHON)
    mirrors = (DEAD, (tmp_path / "far" / PYTHON.archive).as_uri())
    data = [load(tmp_path / "near", small, mirrors=mirrors)]
    data.append(load(tmp_path / "near", small, mirrors=()))
    assert data[0].fingerprint == data[1].fingerprint
    assert [file.name for file in (tmp_path / "near").iterdir()] == [PYTHON.archive]


def test_a_blocked_network_says_where_to_put_the_file(tmp_path):
    small = pack(tmp_path / "far", PYTHON)
    with pytest.raises(
        OSError, match=rf"could not be fetched \(127.* put it at .*{PYTHON.archive}"
    ):
        load(tmp_path / "near", small, mirrors=(DEAD,))
    shutil.copy(tmp_path / "far" / PYTHON.archive, tmp_path / "near")
    assert load(tmp_path / "near", small).name == "CIFAR-10"
