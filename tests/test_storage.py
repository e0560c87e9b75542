"""Claims of files that are whole or absent."""

import json
import os
import stat
from io import BufferedReader, BytesIO
from pathlib import Path

import pytest

from residual.storage import (
    FORMAT,
    check_format,
    iterate_list,
    read_json,
    write_atomic,
    write_json,
)

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "weights"
    for content in (b"first", b"", b"x" * 100_000):
        write_atomic(path, content)
        assert path.read_bytes() == content
        assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


@needs_full
def test_a_full_disk_leaves_what_was_there_whole(tmp_path):
    path = tmp_path / "weights"
    write_atomic(path, b"before")
    (tmp_path / "weights.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"cannot write {path}: No space left on device; .* whole"):
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # noqa: PTH116


def test_a_disk_that_fails_at_the_flush_leaves_what_was_there_whole(tmp_path, monkeypatch):
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "weights"
    write_atomic(path, b"before")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=f"cannot write {path}: Input/output error"):
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_the_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda _: order.append("flush"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: order.append("rename") or replace(a, b))
    write_atomic(tmp_path / "weights", b"content")
    assert order == ["flush", "rename", "flush"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/none/a.json: no folder"):
        write_json(tmp_path / "none" / "a.json", {})


def test_what_a_process_left_half_written_is_written_over(tmp_path):
    (tmp_path / "a.json.partial").write_bytes(b"{")
    write_json(tmp_path / "a.json", {"b": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_json_comes_back_as_it_was_and_a_person_can_read_it(tmp_path):
    value = {"step": 3, "error": 7.51, "classes": ["Käfer", "b"], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    lines = (tmp_path / "a.json").read_text().splitlines()
    assert lines[0] == "{"
    assert sum(line.startswith(' "') for line in lines) == len(value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1} more'])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/a.json is damaged"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("newer", [FORMAT + 1, 99, "2", None, 1.5])
def test_a_newer_format_is_refused_in_a_sentence(tmp_path, newer):
    (tmp_path / "a.json").write_text(json.dumps({"format": newer}))
    with pytest.raises(ValueError, match=f"a.json has format .*reads up to {FORMAT}: update it"):
        read_json(tmp_path / "a.json")


def test_names_that_end_with_nul_may_hold_line_breaks():
    for names in (["a\nb.png", "c.png"], ["c.png", "a\nb.png"], ["a\n\r\nb.png"]):
        stream = BufferedReader(BytesIO("".join(f"{name}\0" for name in names).encode()))
        assert list(iterate_list(stream)) == names


def test_our_own_format_is_read():
    check_format(Path("a.json"), FORMAT)
