"""Files whose names are no text: every command takes them, and shows them so that they are seen."""

import json
import os
from pathlib import Path

import pytest
from conftest import EXACT, draw_pictures

from residual.data.datasets import fingerprint
from residual.data.folder import cache_key, load_folder, open_folder
from residual.data.folder_index import index_folder


def odd(place: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(place) + b"/" + name))


@pytest.fixture(scope="module")
def oddities(tmp_path_factory) -> Path:
    """A folder, a class and pictures that are no UTF-8, with one damaged picture in each set."""
    path = odd(tmp_path_factory.mktemp("odd"), b"donn\xe9es")
    draw_pictures(path, 10, ("cat", "dog"))
    for name in ("train", "test"):
        (path / name / "dog" / "0.png").rename(odd(path / name / "dog", b"\xff\n.png"))
        odd(path / name / "cat", b"\xfe.png").write_bytes(b"")
        (path / name / "cat").rename(odd(path / name, b"b\xeate"))
    return path


def test_a_folder_of_odd_names_is_checked_trained_on_evaluated_and_predicted(
    command, oddities, tmp_path
):
    run, words = tmp_path / "run", ("--data", oddities, "--root", tmp_path / "root")
    checked = command("data", "check", oddities)
    assert checked.status == 1
    assert r"'train/b\udceate/\udcfe.png' (class b\xeate): it has no bytes" in checked.out
    sets = ("--set", "batch=8", "--set", "norm_group=8", "--bad-images", "skip")
    done = command("train", "resnet8", *words, "--steps", 3, *sets, "--out", run, "--json", *EXACT)
    assert done.status == 0, done.err
    assert done.json["seen"] == 21
    assert json.loads((run / "classes.json").read_text()) == [r"b\xeate", "dog"]
    for again in (("resume", run, "--json"), ("evaluate", run, "--json", "--threads", 1)):
        answer = command(*again)
        assert (answer.status, answer.json["seen"]) == (0, 21), answer.err
    assert r"'test/b\udceate/\udcfe.png' is damaged and counts as wrong" in answer.err
    told = command("predict", run, odd(oddities / "test" / "dog", b"\xff\n.png"), "--threads", 1)
    assert told.status == 0, told.err
    assert told.out.startswith("'") and r"\udcff\n.png': " in told.out
    assert command("report", run).status == 0


def test_photographs_of_odd_names_are_read_and_named(oddities, tmp_path):
    data = open_folder(oddities, tmp_path)
    names = [data.train.name(i) for i in range(len(data.train))]
    assert names == [picture.path for picture in index_folder(oddities).sets["train"]]
    assert data.train.image(names.index("train/dog/\udcff\n.png")).size == (32, 32)
    assert data.fingerprint == load_folder(oddities, 8, tmp_path).fingerprint


def test_a_fingerprint_and_a_key_are_over_the_bytes_of_the_names(oddities):
    assert fingerprint([("\udcff", "a", 1, "")]) != fingerprint([("\udcfe", "a", 1, "")])
    assert fingerprint([("\u00ff", "a", 1, "")]) != fingerprint([("\udcff", "a", 1, "")])
    assert len(cache_key(oddities, index_folder(oddities), 8)) == 64
