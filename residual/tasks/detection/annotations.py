"""Annotated images: boxes as a file states them, checked and converted to pixels of the image.

Boxes end up as (left, top, right, bottom) in pixels of the upright image, counted from its upper
left corner, so that a box around the first pixel is 0, 0, 1, 1. PASCAL VOC counts pixels from 1 and
names the last one inside: its xmin to xmax is xmin - 1 to xmax here, and IoU is the devkit's.
COCO's x, y, width, height is x, y, x + width, y + height.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from residual.data.decode import FORMATS, DamagedImage, damage_context
from residual.storage import display_name, summarize
from residual.tasks.detection.recipe import Reading

READERS = 8  # threads; most of their time they wait for the disk
# Choice: a box may cross the border of its picture by this many pixels and is not changed. Some
# tools count VOC pixels from 0, and COCO's coordinates are rounded.
TOLERANCE = 1
Corners = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[float, float]  # width and height


@dataclass(frozen=True)
class Box:
    """An annotated box, and its problem if it has one."""

    position: str  # in its file: box 3
    label: str
    edges: Corners  # as the annotation counts them
    corners: Corners  # as used here
    difficult: bool
    text: str  # the annotation's own numbers
    problem: str = ""  # set when the box is placed in its image


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotation."""

    name: str
    file: str  # of the annotation
    path: Path | None = None
    size: Size | None = None  # as annotated
    boxes: tuple[Box, ...] = ()
    digest: str = ""  # of the annotation
    error: ValueError | OSError | None = None  # why nothing can be learned from it
    wrong_size: str = ""  # a sentence, if the annotation is of another size than the image
    ambiguous: bool = False  # EXIF turns the image, and boxes may be of it before or after that


@dataclass(frozen=True)
class SplitAnnotations:
    """The annotated images of a split."""

    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...] | None = None  # if the annotations list them
    notices: tuple[str, ...] = ()  # sentences for the user


def parse_number(value: Any) -> float:
    """A value of an annotation as a float; NaN if it is not numeric."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def parse_flag(value: Any) -> bool:
    """Whether an annotation's flag is set; words such as Unspecified or no count as unset."""
    text = str(value or "").strip().lower()
    words = ("", "false", "nan", "no", "none", "null", "off", "unspecified")
    return text not in words and parse_number(text) != 0


def path_ends(path: str) -> list[str]:
    """A path and its ends, without the folders that another machine has before them: of
    `C:\\data\\1.jpg` also data/1.jpg and 1.jpg."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


# ---- image headers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageHeader:
    """Size and orientation of an image file."""

    stored: Size
    orientation: int = 1  # EXIF's

    @property
    def upright(self) -> Size:
        """The size after EXIF's rotation, which is by a quarter for 5 to 8."""
        return self.stored[::-1] if self.orientation in range(5, 9) else self.stored

    def size_in(self, frame: str) -> Size:
        return self.stored if frame == "stored" else self.upright


def read_header(path: Path) -> ImageHeader:
    """The header of an image file; no pixel is decoded. Raises DamagedImage and OSError."""
    with path.open("rb") as file, damage_context(str(path)):
        image = Image.open(file, formats=FORMATS)
        size = image.size
        if isinstance(image, TiffImageFile):  # newer Pillows rotate its size when they open it
            size = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        # Pillow decodes a PNG to look for EXIF data behind the pixels.
        late = image.format == "PNG" and has_late_exif(file)
        exif = image.getexif() if late or image.format != "PNG" else Image.Image.getexif(image)
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    return ImageHeader(size, orientation if orientation in range(1, 9) else 1)


def has_late_exif(file: IO[bytes]) -> bool:
    """Whether a PNG has EXIF data, or text that may hold them, behind its first pixels."""
    position, pixels = file.seek(8), False
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        position = file.seek(position + 12 + length)
    return False


def rotate(corners: Corners, header: ImageHeader) -> Corners:
    """A box in the stored image -> the same box in the upright image."""
    left, top, right, bottom = corners
    width, height = header.stored
    return {
        1: corners,
        2: (width - right, top, width - left, bottom),
        3: (width - right, height - bottom, width - left, height - top),
        4: (left, height - bottom, right, height - top),
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }[header.orientation]


# ---- checks and conversion ----------------------------------------------------------------------


def place(image: AnnotatedImage, reading: Reading) -> AnnotatedImage:
    """An image with its boxes in pixels of the upright image, and the problem of each box. If it
    is damaged, the annotated size counts."""
    # Choice: pictures are rotated by their EXIF orientation, and boxes refer to the rotated
    # picture. Some tools annotate the stored picture: then the sizes differ.
    if image.path is None or not image.boxes:
        return image
    try:
        header = read_header(image.path)
    except (DamagedImage, OSError):
        header = ImageHeader(image.size or (math.inf, math.inf))
    size, boxes, wrong_size = header.upright, image.boxes, ""
    if image.size not in (None, header.size_in(reading.box_frame)):
        size, wrong_size = image.size, size_error(image, header, reading)
    else:
        boxes = tuple(replace(box, corners=convert(box, header, reading)) for box in boxes)
    boxes = tuple(replace(box, problem=box_problem(box, size, reading)) for box in boxes)
    rotated = header.orientation != 1 and not wrong_size
    ambiguous = rotated and (image.size is None or header.upright == header.stored)
    return replace(image, boxes=boxes, wrong_size=wrong_size, ambiguous=ambiguous)


def convert(box: Box, header: ImageHeader, reading: Reading) -> Corners:
    """The corners of a box in pixels of the upright image."""
    corners = box.corners
    if reading.box_unit == "fraction":
        (width, height), (left, top, right, bottom) = header.size_in(reading.box_frame), box.edges
        corners = (left * width, top * height, right * width, bottom * height)
    return rotate(corners, header) if reading.box_frame == "stored" else corners


def box_problem(box: Box, size: Size, reading: Reading) -> str:
    """What is wrong with a box in an image of this (width, height); "" if nothing is."""
    left, top, right, bottom = box.edges
    shorter = min(right - left, bottom - top)  # as the annotation means it
    left, top, right, bottom = box.corners
    if not all(map(math.isfinite, box.corners)):
        return "is not four finite numbers"
    if shorter < 0:
        return "is inverted"
    # Choice: a VOC box with equal first and last pixel is empty. The devkit counts one pixel, but
    # such boxes come from accidental clicks.
    if shorter == 0:
        return "is empty"
    # Choice: a box in pixels that lies within 0 to 1 is invalid; some tools write fractions.
    if reading.box_unit == "pixels" and min(box.edges) >= 0 and max(box.edges) <= 1:
        return (
            "has only numbers from 0 to 1; if they are fractions of the picture, say "
            "--box-unit fraction"
        )
    beyond = max(-left, -top, right - size[0], bottom - size[1])
    if beyond > TOLERANCE:
        return f"lies outside its picture of {size[0]:g}x{size[1]:g} pixels by {beyond:g}"
    return "" if box.label else "has no class"


def describe_problem(image: AnnotatedImage, box: Box) -> str:
    """The file, the box and its problem."""
    label = box.label or "without a class"
    return f"{image.file}: {box.position} ({label}: {box.text}) {box.problem}"


def size_error(image: AnnotatedImage, header: ImageHeader, reading: Reading) -> str:
    """A sentence about an annotation of another size than its image."""
    assert image.size is not None and image.path is not None
    annotated, actual = (
        f"{size[0]:g}x{size[1]:g}" for size in (image.size, header.size_in(reading.box_frame))
    )
    sentence = (
        f"{image.file}: says {annotated} pixels, and {display_name(image.path.name)} has {actual}"
    )
    if header.upright == header.stored:
        return sentence
    if reading.box_frame == "upright":
        sentence += ", turned upright (EXIF)"
        if image.size == header.stored:
            sentence += ": --box-frame stored turns its boxes, too"
    else:
        sentence += " as it is stored"
        if image.size == header.upright:
            sentence += ": with --box-frame upright its boxes are of the upright picture"
    return sentence


def orientation_notices(images: Iterable[AnnotatedImage], reading: Reading) -> list[str]:
    """A sentence about images that EXIF turns, if it is unknown whether their boxes are turned."""
    names = [display_name(image.path.name) for image in images if image.ambiguous and image.path]
    if not names or reading.box_frame == "stored":
        return []
    return [
        "pictures that their EXIF data turns or mirrors, and whose annotations do not tell whether "
        f"boxes are of the upright picture {summarize(names)}; look at them with "
        "`residual data check --draw`, and say --box-frame stored if they are not"
    ]
