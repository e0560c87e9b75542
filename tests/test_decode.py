"""Claims of the decoder."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from residual.data import decode as decoder
from residual.data.decode import MAX_PIXELS, DamagedImage, OversizedImage, decode

# Six blocks of 16x16 pixels, two rows of three, so that no two orientations look alike.
LEVELS = np.array([[0, 60, 120], [180, 230, 255]])
COLOURS = np.array(
    [[[255, 0, 0], [0, 200, 0], [0, 0, 255]], [[250, 250, 0], [20, 30, 40], [255, 255, 255]]]
)
ALPHA = np.array([[255, 0, 128], [64, 200, 255]])
WHITE = 255


def blocks(values: np.ndarray) -> np.ndarray:
    """Each value as a block: (2, 3, ...) -> (32, 48, ...)."""
    return values.repeat(16, axis=0).repeat(16, axis=1)


def on_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[..., None] / 255
    return values * part + WHITE * (1 - part)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.stack([levels] * 3, axis=-1)


def image(values: np.ndarray, mode: str, kind: type = np.uint8) -> Image.Image:
    made = Image.fromarray(np.ascontiguousarray(blocks(values).astype(kind)))
    assert made.mode == mode
    return made


def bilevel() -> Image.Image:
    return Image.fromarray(blocks(LEVELS > 100).astype(np.uint8) * 255).convert("1")


def palette() -> Image.Image:
    made = Image.fromarray(blocks(np.arange(6).reshape(2, 3)).astype(np.uint8), "L")
    made.putpalette(COLOURS.reshape(-1).tolist())
    return made


def cmyk() -> Image.Image:
    ink = np.concatenate([255 - COLOURS, np.full((2, 3, 1), 51)], axis=-1)
    return Image.fromarray(blocks(ink).astype(np.uint8), "CMYK")


TWO = np.concatenate([LEVELS[..., None], ALPHA[..., None]], axis=-1)
FOUR = np.concatenate([COLOURS, ALPHA[..., None]], axis=-1)
HIDDEN = np.array([[255, 0, 255], [255, 255, 255]])  # a GIF knows one transparent colour, no half

MODES: dict[str, tuple[Callable[[], Image.Image], np.ndarray]] = {
    # mode: the picture, and what its blocks must become, computed by hand
    "1": (bilevel, grey(np.where(LEVELS > 100, 255, 0))),
    "L": (lambda: image(LEVELS, "L"), grey(LEVELS)),
    "LA": (lambda: image(TWO, "LA"), on_white(grey(LEVELS), ALPHA)),
    "P": (palette, COLOURS),
    "P+alpha": (palette, on_white(COLOURS, ALPHA)),
    "P+hidden": (palette, on_white(COLOURS, HIDDEN)),
    "RGB": (lambda: image(COLOURS, "RGB"), COLOURS),
    "RGBA": (lambda: image(FOUR, "RGBA"), on_white(COLOURS, ALPHA)),
    "CMYK": (cmyk, COLOURS * (255 - 51) / 255),
    "I;16": (lambda: image(LEVELS * 257, "I;16", np.uint16), grey(LEVELS)),
    "F": (lambda: image(LEVELS / 255, "F", np.float32), grey(LEVELS)),
}
HOLDS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "P+alpha", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "GIF": ("1", "L", "P", "P+hidden"),
}
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    # The EXIF orientation of a stored array, and how it is turned to be looked at.
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
MATRIX = [
    (form, mode, orientation)
    for form, modes in HOLDS.items()
    for mode in modes
    for orientation in ((1,) if form == "GIF" else UPRIGHT)  # GIF has no EXIF data
]


def saved(made: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    made.save(file, form, **options)
    return file.getvalue()


def options(form: str, mode: str, orientation: int) -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    chosen: dict[str, object] = {} if form == "GIF" else {"exif": exif}
    if form == "JPEG":
        chosen |= {"quality": 100, "subsampling": 0}
    if form == "WEBP":
        chosen |= {"lossless": True, "exact": True}
    if mode == "P+alpha":
        chosen |= {"transparency": bytes(ALPHA.reshape(-1).tolist())}
    if mode == "P+hidden":
        chosen |= {"transparency": 1}
    return chosen


def centres(pixels: torch.Tensor) -> np.ndarray:
    """The middle of each block: (3, H, W) -> (rows, columns, 3)."""
    return pixels[:, 8::16, 8::16].permute(1, 2, 0).numpy().astype(float)


@pytest.mark.parametrize(("form", "mode", "orientation"), MATRIX)
def test_a_picture_looks_alike_in_each_mode_format_and_orientation(form, mode, orientation):
    make, expected = MODES[mode]
    pixels = decode(saved(make(), form, **options(form, mode, orientation)))
    assert pixels.dtype == torch.uint8
    expected = UPRIGHT[orientation](expected)
    assert tuple(pixels.shape) == (3, 16 * expected.shape[0], 16 * expected.shape[1])
    near = 3 if form == "JPEG" else 1  # JPEG loses a little; compositing rounds
    assert np.abs(centres(pixels) - expected).max() <= near


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_transparent_colour_of_a_grey_or_colour_png_shows_white(mode):
    make, expected = MODES[mode]
    hidden = 60 if mode == "L" else (0, 200, 0)
    pixels = decode(saved(make(), "PNG", transparency=hidden))
    there = np.array([[1, 0, 1], [1, 1, 1]])[..., None]
    assert (centres(pixels) == np.where(there, expected, WHITE)).all()


def test_16_bits_are_rescaled_in_either_byte_order_and_as_a_pgm():
    values = blocks(LEVELS * 257).astype(np.uint16)
    expected = torch.from_numpy(blocks(LEVELS).astype(np.uint8))
    big = Image.frombytes("I;16B", (48, 32), values.astype(">u2").tobytes())
    pgm = b"P5 48 32 65535\n" + values.astype(">u2").tobytes()
    for raw in (saved(big, "TIFF"), pgm):
        assert (decode(raw) == expected).all()


def test_a_dark_16_bit_picture_stays_dark():
    dark = Image.fromarray(np.full((4, 4), 255, dtype=np.uint16))
    assert (decode(saved(dark, "PNG")) == 1).all()


def test_16_bit_colours_are_rescaled():
    row = b"\0" + struct.pack(">6H", 65_535, 32_896, 0, 0, 257, 65_535)
    raw = png(2, 1, depth=16, colour=2, rows=row)
    assert decode(raw).permute(1, 2, 0).tolist() == [[[255, 128, 0], [0, 1, 255]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 20.0, 255.0], [0, 20, 255]),
        ([0.0, 257.0, 65_535.0], [0, 1, 255]),
        ([-100.0, 0.0, 100.0], [0, 128, 255]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
    ],
)
def test_floating_point_spans_the_least_usual_range_that_holds_it(values, expected):
    made = Image.fromarray(np.array([values], dtype=np.float32))
    assert decode(saved(made, "TIFF"))[0].tolist() == [expected]


def test_32_bit_whole_numbers_are_stretched_where_they_pass_16_bits():
    made = Image.fromarray(np.array([[0, 50_000, 100_000]], dtype=np.int32))
    assert decode(saved(made, "TIFF"))[0].tolist() == [[0, 128, 255]]


def test_values_that_are_no_numbers_are_damage():
    made = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(DamagedImage, match="not numbers"):
        decode(saved(made, "TIFF"))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken_of_several(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    extra = {"lossless": True} if form == "WEBP" else {}
    raw = saved(frames[0], form, save_all=True, append_images=frames[1:], **extra)
    assert decode(raw)[:, 8, 8].tolist() == [255, 0, 0]


def test_a_picture_is_resized_after_it_is_upright():
    raw = saved(image(COLOURS, "RGB"), "PNG", **options("PNG", "RGB", 6))
    upright = Image.fromarray(blocks(UPRIGHT[6](COLOURS)).astype(np.uint8))
    expected = np.array(upright.resize((4, 5), Image.Resampling.BILINEAR))
    assert (decode(raw, (5, 4)).permute(1, 2, 0).numpy() == expected).all()
    assert torch.equal(decode(raw, (48, 32)), decode(raw))


def test_resizing_to_a_half_weighs_the_pixels_under_a_triangle():
    column = np.arange(8) * 30.0
    made = Image.fromarray(column.astype(np.uint8)[:, None].repeat(8, axis=1))
    expected = []
    for i in range(4):  # a triangle two new pixels wide, cut off at the border
        distance = np.abs(np.arange(8) + 0.5 - (2 * i + 1)) / 2
        weight = np.clip(1 - distance, 0, None)
        expected.append((weight * column).sum() / weight.sum())
    assert np.abs(decode(saved(made, "PNG"), (4, 4))[0, :, 1].numpy() - expected).max() <= 0.51


# ---- damage -------------------------------------------------------------------------------------


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        whole = name + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_a_half_picture_is_damaged_and_named(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    raw = saved(Image.fromarray(noise), form)
    file = tmp_path / "3.jpg"
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DamagedImage, match=r"3\.jpg is damaged: \w"):
        decode(file)


def test_an_empty_file_is_damaged(tmp_path):
    (tmp_path / "3.jpg").touch()
    with pytest.raises(DamagedImage, match=r"3\.jpg is damaged: it is empty"):
        decode(tmp_path / "3.jpg")


def test_a_text_named_jpg_is_damaged(tmp_path):
    (tmp_path / "3.jpg").write_text("not a picture at all\n" * 20)
    with pytest.raises(DamagedImage, match=r"3\.jpg is no picture in a known format"):
        decode(tmp_path / "3.jpg")


def test_a_drawing_program_is_not_run():
    raw = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(DamagedImage, match="no picture in a known format"):
        decode(raw)


@pytest.mark.parametrize("side", [9_600, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side):
    assert side**2 > MAX_PIXELS
    with pytest.raises(DamagedImage, match=r"the picture is too large: .*pixels"):
        decode(png(side, side, depth=8, colour=0, rows=b"\0" * 100))


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_stripe_that_would_become_too_large_is_damaged(size, tmp_path):
    """A file of 150 bytes would take gigabytes."""
    file = tmp_path / "line.png"
    Image.new("RGB", size).save(file)
    for source, name in ((file, "line.png"), (file.read_bytes(), "the picture")):
        says = f"{name} is too large: with a shorter side of 256"
        with pytest.raises(OversizedImage, match=says):
            decode(source, (224, 224), 256)
    assert decode(file, (8, 8)).shape == (3, 8, 8)


def test_a_text_that_unpacks_without_end_is_damage():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 80_000_000, zip=True)
    with pytest.raises(DamagedImage):
        decode(saved(Image.new("L", (2, 2)), "PNG", pnginfo=info))


def test_a_missing_file_is_missing_and_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*3\.jpg"):
        decode(tmp_path / "3.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
@pytest.mark.filterwarnings("ignore:::PIL")
def test_whatever_the_bytes_a_picture_is_read_or_damaged(form):
    draw = np.random.default_rng(1)
    raw = saved(MODES["RGB"][0](), form)
    for _ in range(150):
        spoilt = bytearray(raw)
        for place in draw.integers(0, min(len(raw), 400), 3):
            spoilt[place] = draw.integers(256)
        try:
            pixels = decode(bytes(spoilt[: draw.integers(1, len(raw) + 1)]), (4, 4))
        except DamagedImage as error:
            ends = ("damaged: ", "too large: ", "no picture in a known format")
            assert str(error).startswith(tuple(f"the picture is {end}" for end in ends))
        else:
            assert tuple(pixels.shape) == (3, 4, 4)


pytest.importorskip("simplejpeg", reason="simplejpeg is not made for this system")


def saved_jpeg(made: Image.Image, **options: object) -> bytes:
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
    raw = saved_jpeg(noise.resize((121, 75), Image.Resampling.BICUBIC), **how)
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
