"""Packed copies and their fingerprints, without mosaicml-streaming; see also tests/cloud."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_pets import pets

from residual.cli.data import pack_line
from residual.data.datasets import no_progress
from residual.data.folder import open_folder
from residual.data.folder_index import index_folder
from residual.data.packed import identity, is_packed, open_packed
from residual.preparation.pack import Packer, PackOptions, PackSummary, pack, prepare
from residual.runs.environment import check_data


def test_without_the_extra_it_is_named(tmp_path, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "streaming", None)
    for attempt in (
        lambda: pack(pictures, str(tmp_path / "to"), PackOptions()),
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
    words = pack_line(PackSummary(pictures=3, kept=kept), "there", PackOptions(form=form))
    assert words.startswith("there: 3 pictures: ") and ("With jpegtran installed" in words) == told


def test_only_what_was_done_to_pictures_is_told():
    jpeg = "JPEG of quality 95, colours 4:4:4"
    cases = [
        (
            PackSummary(pictures=3, kept=3, in_part=3),
            "3 with the same pixels; 3 in all with ",
        ),
        (PackSummary(pictures=3, resized=2), f"3 encoded as {jpeg}; 2 made smaller, to a shorter "),
        (
            PackSummary(pictures=3, kept=1, damaged=[""]),
            f"1 with the same pixels; 1 encoded as {jpeg}; 1 damaged",
        ),
    ]
    raw = pack_line(PackSummary(pictures=3, damaged=[""]), "there", PackOptions(form="raw"))
    assert raw.startswith("there: 3 pictures: 2 decoded; 1 damaged; ")
    for summary, told in cases:
        assert f"there: 3 pictures: {told}" in pack_line(summary, "there", PackOptions())


# ---- the fingerprint of a copy ------------------------------------------------------------------


def index(folder: Path, how: PackOptions) -> dict[str, Any]:
    """What would be written of a packed folder, without its shards."""
    listed = index_folder(folder)
    packer = Packer(folder, listed, how, no_progress)
    for picture in listed:
        packer.add(picture, prepare(folder, picture, how, packer.hashed))
    return packer.contents({})


def older(found: dict[str, Any], source: str) -> dict[str, Any]:
    """The same as an older version wrote it."""
    old = {key: value for key, value in found.items() if key not in ("source", "changed")}
    return old | {"name": "pets", "fingerprint": source}


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> Path:
    return pets(tmp_path_factory.mktemp("jpegs") / "pets", "train", "val", each=4)


EQUAL = [PackOptions(), PackOptions(shorter=32), PackOptions(form="raw")]
OTHER = [
    PackOptions(shorter=20),
    PackOptions(quality=90),
    PackOptions(quality=80),
    PackOptions(shorter=20, form="raw"),
]


@pytest.mark.parametrize("how", EQUAL)
def test_a_copy_with_equal_pixels_carries_its_sources_fingerprint(jpegs, tmp_path, how):
    source, found = open_folder(jpegs, tmp_path), index(jpegs, how)
    assert (found["name"], found["fingerprint"]) == (source.name, source.fingerprint)
    assert (found["changed"], found["source"]) == (0, source.fingerprint)
    assert identity(found) == identity(older(found, source.fingerprint))
    assert identity(found) == (source.name, source.fingerprint, "")
    if how.form == "raw":  # the count of kept ones is of JPEG
        del found["kept"], found["damaged"]
        assert identity(found) == (source.name, source.fingerprint, "")


def test_a_copy_with_other_pixels_has_a_fingerprint_of_its_own_that_names_its_source(
    jpegs, tmp_path
):
    source = open_folder(jpegs, tmp_path)
    copies = [index(jpegs, how) for how in OTHER]
    for found in copies:
        assert (found["name"], found["source"]) == ("pets (packed copy)", source.fingerprint)
        assert found["changed"] == 16
        assert identity(found) == (found["name"], found["fingerprint"], "")
    marks = {found["fingerprint"] for found in copies}
    assert len(marks) == len(OTHER) and source.fingerprint not in marks
    assert index(jpegs, OTHER[0])["fingerprint"] == copies[0]["fingerprint"]


def test_a_copy_of_pictures_that_are_no_jpeg_has_other_pixels(pictures, tmp_path):
    assert index(pictures, PackOptions())["changed"] == 24
    assert index(pictures, PackOptions(form="raw"))["changed"] == 0


def test_an_older_copy_with_other_pixels_is_told_by_its_counts(jpegs, tmp_path):
    source = open_folder(jpegs, tmp_path).fingerprint
    found = [identity(older(index(jpegs, how), source)) for how in OTHER]
    assert {former for _, _, former in found} == {source}
    assert {name for name, _, _ in found} == {"pets (packed copy)"}
    assert len({mark for _, mark, _ in found} | {source}) == 1 + len(OTHER)


@dataclass
class Copy:
    """Packed data as far as a run that is resumed looks at it."""

    name: str
    fingerprint: str
    former: str


def test_a_run_on_an_older_copy_goes_on_with_it_and_one_on_its_source_does_not(jpegs, tmp_path):
    source = open_folder(jpegs, tmp_path).fingerprint
    copy = Copy(*identity(older(index(jpegs, OTHER[0]), source)))
    run = tmp_path / "run"
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "packed.json").write_text("{}")
    known = {"data": {"name": "pets", "fingerprint": source, "where": str(tmp_path / "to")}}
    check_data(run, known, copy)
    known["data"]["where"] = str(jpegs)
    with pytest.raises(ValueError, match=r"was trained on pets .* and this is pets \(packed copy"):
        check_data(run, known, copy)


def test_a_name_that_is_no_utf8_is_packed_readably(tmp_path):
    folder = pets(tmp_path / "pets", "train", "val")
    odd = Path(os.fsdecode(os.fsencode(folder / "train" / "cat") + b"/\xff.jpg"))
    (folder / "train" / "cat" / "0.jpg").rename(odd)
    listed = index_folder(folder)
    paths = [prepare(folder, each, PackOptions(), hashed=True).sample["path"] for each in listed]
    assert r"train/cat/\xff.jpg" in paths
    assert all(path.encode() for path in paths)
    assert index(folder, PackOptions())["fingerprint"] == open_folder(folder, tmp_path).fingerprint
