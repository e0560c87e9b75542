"""The decoder: an image in a file or in bytes becomes 8-bit RGB pixels, and one resize."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from residual.storage import display_name

try:
    from simplejpeg import __version__ as SIMPLEJPEG
    from simplejpeg import decode_jpeg
except ModuleNotFoundError:  # Pillow decodes the same pixels more slowly
    decode_jpeg = SIMPLEJPEG = None

# The contents decide the format, not the name. Pillow's other readers are seldom exercised, and one
# of them starts a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb
# Changes with whatever may alter a pixel, so that no stale cache is used.
DECODER_VERSION = f"2, Pillow {PIL.__version__}, simplejpeg {SIMPLEJPEG}"


class DamagedImage(ValueError):
    """An image that cannot be read; the message names it and the reason."""


class UnknownFormat(DamagedImage):
    """The contents are no image in a known format."""


class OversizedImage(DamagedImage):
    """An image of more than MAX_PIXELS, by its header."""


class PixelSource(Protocol):
    """An image that may decode a part of itself."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as of a Pillow image."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """The pixels between these borders."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, (H, W, 3)."""

    pixels: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        return self.pixels[top:bottom, left:right]


Picture = Image.Image | PixelSource


def as_image(picture: Picture) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture.pixels)


def as_pixels(picture: Picture) -> PixelSource:
    return DecodedImage(np.asarray(picture)) if isinstance(picture, Image.Image) else picture


def decode(
    source: Path | bytes | Image.Image,
    size: tuple[int, int] | None = None,
    shorter: int | None = None,
) -> Tensor:
    """Decode an image, and resize it to (height, width) if given -> (3, H, W) uint8.

    With `shorter`, the shorter side is resized to that, and (height, width) is the centre crop
    (Sec. 3.4). The first of several frames is taken, and the EXIF orientation is applied. Raises
    DamagedImage, and FileNotFoundError if there is no file.
    """
    image = open_to_resize(source, shorter)
    if size is None:
        return to_tensor(image)
    return to_tensor(resize(image, size) if shorter is None else center_crop(image, size, shorter))


def open_to_resize(source: Path | bytes | Image.Image, shorter: int | None) -> Image.Image:
    """Like `open_image`; a stripe that would be too long with this shorter side is damaged, too."""
    image = open_image(source)
    if shorter is not None:
        with damage_context(display_name(source) if isinstance(source, Path) else "the picture"):
            check_scaled_size(image.size, shorter)
    return image


def open_image(source: Path | bytes | Image.Image) -> Image.Image:
    """An image in 8-bit RGB, upright, in its original size. Raises what `decode` raises."""
    return as_image(open_picture(source))


def open_picture(source: Path | str | bytes | Image.Image) -> Picture:
    """Like `open_image`, but a JPEG may come as an array."""
    if isinstance(source, Image.Image):
        with damage_context("the picture"):
            check_pixel_count(*source.size)
            return _to_rgb(ImageOps.exif_transpose(source))  # a copy
    name = "the picture" if isinstance(source, bytes) else display_name(source)
    try:
        raw = source if isinstance(source, bytes) else read_bytes(source)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {name}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name} is a folder; name the pictures in it: {name}/*") from None
    if not raw:
        raise DamagedImage(f"{name} is damaged: it is empty")
    with damage_context(name):
        image = open_header(raw)
        return _decode_plain_jpeg(raw, image) or _to_rgb(_upright(image))


def read_bytes(path: Path | str) -> bytes:
    with io.FileIO(path) as file:
        return file.readall()


def _decode_plain_jpeg(raw: bytes, image: Image.Image) -> DecodedImage | None:
    """The pixels of an upright RGB JPEG without faults; None for any other image.

    They are Pillow's, in four fifths of the time: Pillow asks libjpeg-turbo for single lines.
    """
    if decode_jpeg is None or (image.format, image.mode) != ("JPEG", "RGB"):
        return None
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    try:
        return DecodedImage(decode_jpeg(raw))
    except ValueError:  # raised for any remark of libjpeg; Pillow tells which is damage
        return None


def decode_jpeg_bytes(raw: bytes | bytearray) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of an RGB JPEG. Raises ValueError or OSError for a fault."""
    if decode_jpeg is None:
        return np.asarray(Image.open(io.BytesIO(raw), formats=("JPEG",)))
    return decode_jpeg(raw)  # type: ignore[no-any-return]


def inspect_image(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The format, and the conversions that `open_image` makes. Raises what `open_image` raises.

    All data is read, but a JPEG is decoded at an eighth of its size, in half the time.
    """
    with damage_context("the picture"):
        image = open_header(raw)
        name, changes = str(image.format), conversions(image)
        image.draft(None, (image.width // 8, image.height // 8))
        _to_rgb(_upright(image))
    return name, changes


@contextmanager
def damage_context(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into DamagedImage with the name of the image."""
    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise UnknownFormat(f"{name} is no picture in a known format ({formats})") from error
    except Image.DecompressionBombError as error:
        raise OversizedImage(f"{name} is too large: {error}") from error
    except Exception as error:  # decoders raise more than OSError
        raise DamagedImage(f"{name} is damaged: {str(error) or type(error).__name__}") from error


def to_tensor(image: Image.Image) -> Tensor:
    """8-bit RGB -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def resize(image: Picture, size: tuple[int, int]) -> Image.Image:
    """Resize to (height, width); an image of that size is returned itself."""
    # Choice: all resizing is bilinear with antialiasing on 8-bit pixels (by Pillow; by torch for
    # training crops, with other rounding); the paper names no filter.
    height, width = size
    image = as_image(image)
    if image.size == (width, height):
        return image
    # Across and then down, each rounded to 8 bits. In one call, Pillow 13 reverses the order where
    # that is faster, and older versions do not: the pixels would differ.
    across = image.resize((width, image.size[1]), Image.Resampling.BILINEAR)
    return across.resize((width, height), Image.Resampling.BILINEAR)


def scaled_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) with this shorter side; the longer one is rounded down, as in torchvision."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def center_box(
    size: tuple[int, int], crop: tuple[int, int], shorter: int
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """(width, height) of an image that is resized to this shorter side, and left, top, right and
    bottom of the centre (height, width) in it."""
    width, height = scaled_size(size, shorter)
    left, top = (round((width - crop[1]) / 2), round((height - crop[0]) / 2))
    return (width, height), (left, top, left + crop[1], top + crop[0])


def center_crop(image: Image.Image, size: tuple[int, int], shorter: int) -> Image.Image:
    """The centre (height, width) of an image that is resized to this shorter side."""
    (width, height), box = center_box(image.size, size, shorter)
    return resize(image, (height, width)).crop(box)


def open_header(raw: bytes) -> ImageFile.ImageFile:
    """An image of which only the header has been read."""
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own limit is twice as high
        raise Image.DecompressionBombError(f"it has more than {MAX_PIXELS:,} pixels") from None
    check_pixel_count(*image.size)
    return image


def check_pixel_count(width: int, height: int, clause: str = "it has") -> None:
    """Raises DecompressionBombError, which becomes OversizedImage."""
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(
            f"{clause} {width}x{height} pixels, more than {MAX_PIXELS:,}"
        )


def check_scaled_size(size: tuple[int, int], shorter: int) -> None:
    """Raises DecompressionBombError for a stripe that would be too long with this shorter side."""
    clause = f"with a shorter side of {shorter} it would have"
    check_pixel_count(*scaled_size(size, shorter), clause)


def conversions(image: ImageFile.ImageFile) -> tuple[str, ...]:
    """The conversions that `open_image` makes of an image that was just opened."""
    deep = image.mode in ("I", "F") or any(";16" in str(tile) for tile in image.tile)
    try:
        several = getattr(image, "is_animated", False)
    except Exception:  # there is a second frame, and a damaged one
        several = True
    changes = {
        "first of several frames taken": several,
        "turned upright (EXIF)": image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9),
        "more than 8 bits scaled to 8": deep,
        "transparency shown on white": image.has_transparency_data,
        "palette to RGB": image.mode in ("P", "PA"),
        "grey to RGB": image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode[:4] == "I;16",
    }
    colours = {"CMYK", "YCbCr", "LAB", "HSV"} & {image.mode}
    return (*(name for name, so in changes.items() if so), *(f"{c} to RGB" for c in colours))


def _upright(image: Image.Image) -> Image.Image:
    """Load the first frame and apply its EXIF orientation."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        # Choice: transparent pixels become white; the paper's pictures have no transparency.
        layer = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """A grey image of more than 8 bits, rescaled without clipping: (H, W)."""
    # Choice: integers of more than 8 bits span 0 to 65,535, as in PNG. Floating-point values span
    # the smallest of 0 to 1, 0 to 255 and 0 to 65,535 that contains them; if none does, the minimum
    # becomes black and the maximum white.
    grey = np.asarray(image).astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite(low + high):
        raise ValueError("some of its values are not numbers")
    for span in (1, 255, 65_535) if image.mode == "F" else (65_535,):
        if low >= 0 and high <= span:
            return np.round(grey * 255 / span).astype(np.uint8)
    return np.round((grey - low) * 255 / max(high - low, 1e-300)).astype(np.uint8)
