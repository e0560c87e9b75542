"""Claims of JPEGs with restart markers."""

import io
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from residual.data import decode as decoder
from residual.data.augment import AspectCrop, ScaleCrop
from residual.data.decode import (
    DamagedImage,
    OversizedImage,
    as_image,
    as_pixels,
    decode_jpeg_bytes,
)
from residual.data.packed import RestartJpeg, add_restart_markers, restart_interval
from residual.data.test_crops import Views

MCU = {"4:4:4": (8, 8), "4:2:2": (16, 8), "4:2:0": (16, 16)}


def coloured(width: int, height: int) -> Image.Image:
    """Of which no two parts are alike, in each of its colours."""
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def marked(width: int, height: int, subsampling: str = "4:4:4", interval: int = 0) -> RestartJpeg:
    interval = interval or restart_interval(math.ceil(width / MCU[subsampling][0]))
    options = {"subsampling": subsampling, "quality": 80, "restart_marker_blocks": interval}
    return RestartJpeg(saved(coloured(width, height), **options), interval)


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
        "residual.data.packed.decode_jpeg_bytes",
        lambda raw: decoded.append(decode_jpeg_bytes(raw)) or decoded[-1],
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
    assert restart_interval(across) == between


def test_a_picture_without_its_markers_is_damaged_and_named():
    picture = marked(64, 48)
    for raw, interval in (
        (picture.raw, 2 * picture.interval),
        (saved(coloured(64, 48)), picture.interval),
        (saved(coloured(64, 48), progressive=True, restart_marker_blocks=4), 4),
        (saved(coloured(64, 48).convert("L"), restart_marker_blocks=4), 4),
        (picture.raw[:40], picture.interval),
        (picture.raw.replace(b"\xff\xc0", b"\xff\xc2", 1), picture.interval),
        (saved(coloured(160, 80), subsampling="4:4:4", restart_marker_blocks=8), 8),  # of 20
        (b"", 4),
    ):
        with pytest.raises(DamagedImage, match=r"cat\.jpg is damaged"):
            RestartJpeg(raw, interval, "cat.jpg")


@pytest.mark.skipif(decoder.decode_jpeg is None, reason="Pillow is silent about spoilt data")
@pytest.mark.parametrize("asked", [lambda x: x.pixels, lambda x: x.part(0, 0, 8, 8)])
def test_a_picture_whose_data_is_spoilt_is_damaged_and_named(asked):
    picture = marked(64, 48)
    spoilt = bytearray(picture.raw)
    spoilt[picture.starts[0] + 5 : picture.ends[0]] = bytes(picture.ends[0] - picture.starts[0] - 5)
    torn = RestartJpeg(bytes(spoilt), picture.interval, "cat.jpg")
    with pytest.raises(DamagedImage, match=r"cat\.jpg is damaged"):
        asked(torn)


def test_a_header_that_promises_too_many_pixels_is_not_believed():
    picture = marked(64, 48)
    raw, at = bytearray(picture.raw), picture.frame.size_at
    raw[at : at + 4] = (16_000).to_bytes(2, "big") * 2
    with pytest.raises(OversizedImage, match="16000x16000"):
        RestartJpeg(bytes(raw), picture.interval)


def test_a_picture_that_is_asked_for_twice_is_decoded_once(monkeypatch):
    picture, decoded = marked(64, 48), []
    monkeypatch.setattr(
        "residual.data.packed.decode_jpeg_bytes",
        lambda raw: decoded.append(raw) or decode_jpeg_bytes(raw),
    )
    Views("whole", (0, 0), (32, 48))(picture, 0, 0)
    assert len(decoded) == 1


@pytest.mark.skipif(not shutil.which("jpegtran"), reason="jpegtran is not installed")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("subsampling", MCU)
def test_markers_change_no_pixel(options, subsampling):
    raw = saved(coloured(131, 75), subsampling=subsampling, **options)
    made, interval = add_restart_markers(raw)
    assert interval == restart_interval(math.ceil(131 / MCU[subsampling][0])) and made != raw
    assert np.array_equal(RestartJpeg(made, interval).pixels, decode_jpeg_bytes(raw))


SCRIPTS = {
    "unchanged": "#!/bin/sh\ncat",
    "fails": "#!/bin/sh\nexit 1",
    "no picture": '#!/bin/sh\ncat >/dev/null; cat "$0"',
    "another picture": "#!/bin/sh\ncat other.jpg",
    "other intervals": "#!/bin/sh\ncat five.jpg",  # as many of them
    "no program": "no program",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_stays_where_no_equal_one_can_be_made(script, tmp_path, monkeypatch):
    how = {"subsampling": "4:4:4", "restart_marker_blocks": 4}
    raw = saved(coloured(96, 8), subsampling="4:4:4")
    other = np.array(coloured(96, 8))
    other[:, :8] = 0  # of which the middle is the same
    (tmp_path / "other.jpg").write_bytes(saved(Image.fromarray(other), **how))
    five = saved(coloured(96, 8), **how | {"restart_marker_blocks": 5})
    (tmp_path / "five.jpg").write_bytes(five)
    assert np.array_equal(RestartJpeg(five, 4).pixels, decode_jpeg_bytes(raw))
    (tmp_path / "jpegtran").write_text(SCRIPTS[script])
    (tmp_path / "jpegtran").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert add_restart_markers(raw) == (raw, 0)


def test_a_file_stays_where_there_is_no_jpegtran(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    raw = saved(coloured(64, 48))
    assert add_restart_markers(raw) == (raw, 0)
    assert add_restart_markers(saved(coloured(64, 48).convert("L")))[1] == 0
