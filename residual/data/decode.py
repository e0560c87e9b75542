"""The one decoder and the one resize: a picture in a file or in bytes, to pixels."""

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
except ModuleNotFoundError:  # the same pixels, later
    decode_jpeg = SIMPLEJPEG = None

# A file is read as what it is, not as what its name says, and as nothing else: Pillow's other
# readers are seldom exercised, and one of them starts a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # pixels; where Pillow begins to warn of a decompression bomb
# Changes with whatever may alter a pixel, so that no stale cache is used.
DECODER_VERSION = f"2, Pillow {PIL.__version__}, simplejpeg {SIMPLEJPEG}"


class DamagedImage(ValueError):
    """A picture that cannot be read; the message names it and says why."""


class PixelSource(Protocol):
    """A picture of which only a part may ever be needed."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as an image has it."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """Those between these borders."""


@dataclass(frozen=True)
class DecodedImage:
    """All pixels of a picture, (H, W, 3)."""

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


class UnknownFormat(DamagedImage):
    """The contents are no picture in a known format."""


class OversizedImage(DamagedImage):
    """A picture of more pixels than are decoded, as its header says."""


def decode(
    source: Path | bytes | Image.Image,
    size: tuple[int, int] | None = None,
    shorter: int | None = None,
) -> Tensor:
    """A picture in a file, in the bytes of one, or opened by Pillow, as it is meant to be seen ->
    (3, H, W) uint8, resized to a (height, width) or not.

    Where `shorter` is given, the shorter side becomes so many pixels and the centre is cut out, as
    for a photograph's centre crop (Sec. 3.4). The first frame is taken of several, and the
    orientation in the EXIF data is applied. Raises Damaged where the contents are no whole picture
    and FileNotFoundError where there is no file.
    """
    image = open_image(source)
    if size is None:
        return to_tensor(image)
    return to_tensor(resize(image, size) if shorter is None else center_crop(image, size, shorter))


def open_image(source: Path | bytes | Image.Image) -> Image.Image:
    """A picture in three 8-bit colours, upright, in its own size. Raises what `decode` raises."""
    return as_image(open_picture(source))


def open_picture(source: Path | str | bytes | Image.Image) -> Picture:
    """The same, for who needs a part of it."""
    if isinstance(source, Image.Image):
        with damage_context("the picture"):
            check_pixel_count(*source.size)
            return to_rgb(ImageOps.exif_transpose(source))  # a copy
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
        return _decode_upright_jpeg(raw, image) or to_rgb(_upright(image))


def read_bytes(path: Path | str) -> bytes:
    with io.FileIO(path) as file:
        return file.readall()


def _decode_upright_jpeg(raw: bytes, image: Image.Image) -> DecodedImage | None:
    """A JPEG in three colours, upright and without a fault: any other is left to Pillow."""
    # The same pixels, by libjpeg-turbo too, in four fifths of the time: Pillow asks it for one line
    # after another.
    if decode_jpeg is None or (image.format, image.mode) != ("JPEG", "RGB"):
        return None
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    try:
        return DecodedImage(decode_jpeg(raw))
    except ValueError:  # whatever libjpeg has to remark; Pillow knows which of it is damage
        return None


def decode_jpeg_bytes(raw: bytes | bytearray) -> NDArray[np.uint8]:
    """Of a JPEG in three colours, (H, W, 3). Raises ValueError or OSError for a fault."""
    if decode_jpeg is None:
        return np.asarray(Image.open(io.BytesIO(raw), formats=("JPEG",)))
    found: NDArray[np.uint8] = decode_jpeg(raw)
    return found


def inspect_image(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """A picture's format, and what `seen` would change in it. Raises what `seen` raises.

    All of its data is read, but a JPEG is computed at an eighth of its size, in half the time.
    """
    with damage_context("the picture"):
        image = open_header(raw)
        form, done = str(image.format), conversions(image)
        image.draft(None, (image.width // 8, image.height // 8))
        to_rgb(_upright(image))
    return form, done


@contextmanager
def damage_context(name: str) -> Iterator[None]:
    """Around the reading of a picture: what it stumbles on becomes Damaged, with the name."""
    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise UnknownFormat(
            f"{name} is damaged: it is no picture in a known format ({known})"
        ) from error
    except Image.DecompressionBombError as error:
        raise OversizedImage(f"{name} is damaged: {error}") from error
    except Exception as error:  # a reader raises whatever its parsing stumbles on, not only OSError
        raise DamagedImage(f"{name} is damaged: {str(error) or type(error).__name__}") from error


def to_tensor(image: Image.Image) -> Tensor:
    """Three 8-bit colours -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def resize(image: Picture, size: tuple[int, int]) -> Image.Image:
    """A picture in another (height, width); untouched where it has that already."""
    # Choice: bilinear with antialiasing, on 8-bit pixels, for all resizing (Pillow's BILINEAR, and
    # torch's for training crops, which rounds otherwise); the paper names no filter.
    height, width = size
    image = as_image(image)
    if image.size == (width, height):
        return image
    # Across and then down, each rounded to 8 bits. In one call, Pillow 13 turns the order round
    # where that is faster, and older ones do not: the same picture would not be the same pixels.
    across = image.resize((width, image.size[1]), Image.Resampling.BILINEAR)
    return across.resize((width, height), Image.Resampling.BILINEAR)


def scaled_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side is made so many pixels; the longer one is
    rounded down, as torchvision does."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def center_crop(image: Image.Image, size: tuple[int, int], shorter: int) -> Image.Image:
    """The middle (height, width) of a picture whose shorter side is made so many pixels."""
    width, height = scaled_size(image.size, shorter)
    left, top = (round((width - size[1]) / 2), round((height - size[0]) / 2))
    whole = resize(image, (height, width))
    return whole.crop((left, top, left + size[1], top + size[0]))


def open_header(raw: bytes) -> ImageFile.ImageFile:
    """A picture of which only the header has been read."""
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    check_pixel_count(*image.size)
    return image


def check_pixel_count(width: int, height: int) -> None:
    """Raises DecompressionBombError, which becomes Oversized."""
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(
            f"it has {width}x{height} pixels, more than {MAX_PIXELS:,}"
        )


def conversions(image: ImageFile.ImageFile) -> tuple[str, ...]:
    """What becomes of a picture that was just opened, besides that it is read."""
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
    """The first frame, whole and turned as its EXIF data says."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as three 8-bit colours."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        # Choice: what is transparent shows white; the paper's pictures have no transparency.
        layer = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """A grey picture of more than 8 bits, rescaled and not cut off: (H, W)."""
    # Choice: whole numbers span 0 to 65,535, as in PNG, where 257 of them make one step. Floating
    # point spans the least of 0 to 1, 255 and 65,535 that holds it. Where a value lies beyond, the
    # least becomes black and the greatest white.
    grey = np.asarray(image).astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite(low + high):
        raise ValueError("some of its values are not numbers")
    for span in (1, 255, 65_535) if image.mode == "F" else (65_535,):
        if low >= 0 and high <= span:
            return np.round(grey * 255 / span).astype(np.uint8)
    return np.round((grey - low) * 255 / max(high - low, 1e-300)).astype(np.uint8)
