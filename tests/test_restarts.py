"""Of a JPEG with restart markers, each part is decoded as it is in the whole."""

import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data import decode as decoder
from residual.data.crops import AspectCrop, ScaleCrop
from residual.data.decode import Damaged, as_image, as_pixels, jpeg_pixels
from residual.data.restarts import Restarting, frame, restarting, spaced

MCU = {"4:4:4": (8, 8), "4:2:2": (16, 8), "4:2:0": (16, 16)}


def coloured(width: int, height: int, seed: int = 0) -> Image.Image:
    """Of which no two parts are alike, in each of its colours."""
    draw = np.random.default_rng(seed)
    noise = draw.integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def marked(width: int, height: int, subsampling: str = "4:4:4", interval: int = 0) -> Restarting:
    interval = interval or spaced(math.ceil(width / MCU[subsampling][0]))
    options = {"subsampling": subsampling, "quality": 80, "restart_marker_blocks": interval}
    return Restarting(saved(coloured(width, height), **options), interval)


@pytest.mark.parametrize("reader", ["simplejpeg", "Pillow"])
@pytest.mark.parametrize("subsampling", MCU)
@pytest.mark.parametrize("size", [(131, 75), (64, 48), (257, 33), (13, 9)])
def test_a_part_has_the_pixels_of_the_whole(reader, subsampling, size, monkeypatch):
    if reader == "Pillow":
        monkeypatch.setattr(decoder, "decode_jpeg", None)
    elif decoder.decode_jpeg is None:
        pytest.skip("simplejpeg is not made for this system")
    picture, draw = marked(*size, subsampling), np.random.default_rng(1)
    assert picture.size == size and picture.frame.mcu == MCU[subsampling]
    whole = np.asarray(Image.open(io.BytesIO(picture.raw)))
    assert np.array_equal(picture.pixels, whole)
    corners = [(0, 0, *size), (0, 0, 1, 1), (size[0] - 1, size[1] - 1, *size)]
    for _ in range(60):
        (left, right), (top, bottom) = (sorted(draw.integers(0, n, 2).tolist()) for n in size)
        corners.append((left, top, right + 1, bottom + 1))
    for left, top, right, bottom in corners:
        part = picture.part(left, top, right, bottom)
        assert np.array_equal(part, whole[top:bottom, left:right])


def test_only_what_is_needed_is_decoded(monkeypatch):
    picture, decoded = marked(640, 480, "4:2:0"), []
    monkeypatch.setattr(
        "residual.data.restarts.jpeg_pixels",
        lambda raw: decoded.append(jpeg_pixels(raw)) or decoded[-1],
    )
    picture.part(200, 100, 300, 150)
    ((height, width, _),) = (pixels.shape for pixels in decoded)
    assert height == 64  # rows 96 to 160, for a neighbour's colours are in reach of none beyond
    assert width == 128  # columns 192 to 320, in pieces of 64


@pytest.mark.parametrize("cut", [ScaleCrop(48, (64, 96), 1), AspectCrop(48, 1)])
def test_a_crop_is_the_same_from_a_part_and_from_the_whole(cut):
    picture = marked(150, 110, "4:2:0")
    for epoch in range(20):
        (part,) = cut(picture, 3, epoch)
        (whole,) = cut(as_image(as_pixels(picture)), 3, epoch)
        assert np.array_equal(part, whole)


@pytest.mark.parametrize(("across", "between"), [(1, 1), (3, 3), (32, 4), (63, 7), (47, 47)])
def test_each_row_is_divided_alike(across, between):
    assert spaced(across) == between


def test_a_picture_without_its_markers_is_damaged_and_named():
    picture = marked(64, 48)
    for raw, interval in (
        (picture.raw, 2 * picture.interval),
        (saved(coloured(64, 48)), picture.interval),
        (saved(coloured(64, 48), progressive=True, restart_marker_blocks=4), 4),
        (saved(coloured(64, 48).convert("L"), restart_marker_blocks=4), 4),
        (picture.raw[:40], picture.interval),
        (b"", 4),
    ):
        with pytest.raises(Damaged, match=r"cat\.jpg is damaged"):
            Restarting(raw, interval, "cat.jpg")
    spoilt = bytearray(picture.raw)
    spoilt[frame(picture.raw).data + 5 :: 7] = bytes(len(spoilt[frame(picture.raw).data + 5 :: 7]))
    with pytest.raises(Damaged, match=r"cat\.jpg is damaged"):
        Restarting(bytes(spoilt), picture.interval, "cat.jpg").part(0, 0, 64, 48)


@pytest.mark.skipif(not shutil.which("jpegtran"), reason="jpegtran is not installed")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("subsampling", MCU)
def test_markers_change_no_pixel(options, subsampling):
    raw = saved(coloured(131, 75), subsampling=subsampling, **options)
    made, interval = restarting(raw)
    assert interval == spaced(math.ceil(131 / MCU[subsampling][0])) and made != raw
    assert np.array_equal(Restarting(made, interval).pixels, jpeg_pixels(raw))


def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A jpegtran of our own, before any other."""
    file = folder / "jpegtran"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize("script", ["cat", "exit 1", 'cat >/dev/null; cat "$0"', "cat other.jpg"])
def test_a_file_stays_where_no_equal_one_can_be_made(script, tmp_path, monkeypatch):
    raw = saved(coloured(64, 48))
    (tmp_path / "other.jpg").write_bytes(
        saved(coloured(64, 48, seed=1), restart_marker_blocks=4, subsampling="4:2:0")
    )
    monkeypatch.chdir(tmp_path)
    tool(tmp_path, monkeypatch, script)
    assert restarting(raw) == (raw, 0)


def test_a_file_stays_where_there_is_no_jpegtran(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    raw = saved(coloured(64, 48))
    assert restarting(raw) == (raw, 0)
    assert restarting(saved(coloured(64, 48).convert("L")))[1] == 0
