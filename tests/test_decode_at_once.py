"""A JPEG decoded at once is what Pillow makes of it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data import decode as decoder
from residual.data.decode import DamagedImage, decode

pytest.importorskip("simplejpeg", reason="simplejpeg is not made for this system")


def saved(made: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    made.save(file, "JPEG", **options)
    return file.getvalue()


def outcome(raw: bytes) -> torch.Tensor | str:
    try:
        return decode(raw)
    except DamagedImage as error:
        return str(error)


@pytest.mark.parametrize(
    "how",
    [
        *({"subsampling": each} for each in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")),
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"quality": 5, "optimize": True},
    ],
)
@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_jpeg_decoded_at_once_is_what_pillow_makes_of_it_and_so_is_its_damage(monkeypatch, how):
    draw, at_once = np.random.default_rng(2), []
    quick = decoder.decode_jpeg
    noise = Image.fromarray(draw.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    raw = saved(noise.resize((121, 75), Image.Resampling.BICUBIC), **how)
    spoilt = [raw, raw + b"more", raw[:-2], raw[: len(raw) // 2]]
    for _ in range(30):
        other = bytearray(raw)
        other[draw.integers(len(raw))] = draw.integers(256)
        spoilt.append(bytes(other))
    for each in spoilt:
        monkeypatch.setattr(
            decoder, "decode_jpeg", lambda x: at_once.append(quick(x)) or at_once[-1]
        )
        ours = outcome(each)
        monkeypatch.setattr(decoder, "decode_jpeg", None)
        theirs = outcome(each)
        assert ours == theirs if isinstance(theirs, str) else torch.equal(ours, theirs)
    assert len(at_once) > 1
