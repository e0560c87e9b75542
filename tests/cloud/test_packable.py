"""What becomes of a picture that is packed."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("streaming", reason="needs the extra `cloud`: make test-cloud")

from residual.data.decode import as_pixels, open_image, resize, scaled_size
from residual.data.packed import CONTENTS_FILE, RestartJpeg, open_packed
from residual.preparation.pack import PackOptions, pack

pytest_plugins = "made_photographs"  # folder, packed


def test_pictures_that_need_no_change_keep_their_pixels(folder, packed, tmp_path):
    train = open_packed(str(packed), tmp_path).train
    changed = []
    for i in range(len(train)):
        images = open_image(folder / train.name(i)), train.image(i)
        if not np.array_equal(*(as_pixels(image).pixels for image in images)):
            changed.append(Path(train.name(i)).name)
    assert sorted(changed) == ["large.jpg", "lossless.png", "turned.jpg"]


def test_only_a_part_of_a_jpeg_is_decoded_where_it_has_restart_markers(folder, packed, tmp_path):
    train = open_packed(str(packed), tmp_path).train
    whole = {Path(train.name(i)).name for i in range(len(train))
             if not isinstance(train.image(i), RestartJpeg)}  # fmt: skip
    if shutil.which("jpegtran"):
        assert whole == {"grey.jpg"}
    else:
        assert whole == {Path(train.name(i)).name for i in range(len(train))} - {
            "large.jpg", "lossless.png", "turned.jpg"}  # fmt: skip
    found = json.loads((packed / CONTENTS_FILE).read_text())
    assert found["in_part"] == found["pictures"] - (1 if shutil.which("jpegtran") else 27)


def test_without_jpegtran_files_are_kept_byte_for_byte(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert pack(folder, str(tmp_path / "to"), PackOptions()).kept == 28
    train = open_packed(str(tmp_path / "to"), tmp_path).train
    kept = [
        train.source.sample(int(train.indices[i]))["picture"]
        == (folder / train.name(i)).read_bytes()
        for i in range(len(train))
    ]
    assert len(train) - sum(kept) == 2  # the one that was turned, and the one that is no JPEG


def test_a_large_picture_is_made_smaller_and_all_stand_upright(folder, packed, tmp_path):
    copy = open_packed(str(packed), tmp_path)
    sizes = {copy.train.name(i): copy.train.image(i).size for i in range(len(copy.train))}
    assert sizes["train/cat/large.jpg"] == (60, 80)
    assert sizes["train/cat/turned.jpg"] == (30, 40)
    assert "1 of 30 pictures were made smaller" in copy.notices[0]


def test_a_quality_encodes_each_picture_anew(folder, tmp_path):
    how = PackOptions(quality=90)
    assert pack(folder, str(tmp_path / "small"), how).kept == 0
    train = open_packed(str(tmp_path / "small"), tmp_path).train
    for i in range(len(train)):
        own = train.source.sample(int(train.indices[i]))["picture"]
        file, between = io.BytesIO(), train.image(i).interval
        open_image(folder / train.name(i)).save(
            file, "JPEG", quality=90, subsampling="4:2:0", restart_marker_blocks=between
        )
        assert own == file.getvalue()


def test_raw_pictures_are_exactly_what_the_decoder_and_the_resize_give(folder, tmp_path):
    pack(folder, str(tmp_path / "raw"), PackOptions(shorter=32, form="raw"))
    train = open_packed(str(tmp_path / "raw"), tmp_path).train
    for i in range(len(train)):
        image = open_image(folder / train.name(i))
        expected = image
        if min(image.size) > 32:
            expected = resize(image, scaled_size(image.size, 32)[::-1])  # (height, width)
        assert (as_pixels(train.image(i)).pixels == as_pixels(expected).pixels).all()
