"""What packing.py and packed.py claim that needs no mosaicml-streaming; see also tests/cloud."""

import sys
from pathlib import Path

import pytest

from residual.cli.pack import in_words
from residual.data.packable import How
from residual.data.packed import is_packed, open_packed
from residual.data.packing import Summary, pack


def test_without_the_extra_it_is_named(tmp_path, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "streaming", None)
    for attempt in (
        lambda: pack(pictures, str(tmp_path / "to"), How()),
        lambda: open_packed("s3://bucket/pictures", tmp_path),
    ):
        with pytest.raises(ValueError, match=r"pip install 'residual-learning\[cloud\]'"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["s3://bucket/pictures", "gs://bucket/pictures"])
def test_a_place_in_an_object_store_is_known_by_its_name(where):
    assert is_packed(where)


def test_a_folder_of_pictures_is_not_packed(pictures: Path):
    assert not is_packed(str(pictures)) and not is_packed("digits") and not is_packed("C:\\data")


@pytest.mark.parametrize(
    ("kept", "form", "tool", "told"),
    [(2, "jpeg", None, True), (0, "jpeg", None, False), (2, "jpeg", "/bin/jpegtran", False),
     (0, "raw", None, False)],
)  # fmt: skip
def test_what_jpegtran_would_gain_is_told_where_it_is_missing(kept, form, tool, told, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: tool)
    words = in_words(Summary(pictures=3, kept=kept), "there", How(form=form))
    assert words.startswith("there: 3 pictures, ") and ("With jpegtran installed" in words) == told
