"""From the frame and unit of an annotation to pixels of the picture as it is seen."""

import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from residual.data.decode import FORMATS, Damaged, naming
from residual.data.filenames import few, shown
from residual.tasks.detection.annotations import READERS, Annotated, Box, Corners, complaint
from residual.tasks.detection.recipe import FRACTION, STORED, UPRIGHT, Reading

SIDEWAYS = range(5, 9)  # EXIF orientations that turn a picture by a quarter
Size = tuple[float, float]  # width and height


@dataclass(frozen=True)
class Header:
    """What a picture's file says of itself before its pixels."""

    stored: Size
    orientation: int = 1  # EXIF's

    @property
    def seen(self) -> Size:
        """The size of the picture as it is seen."""
        return self.stored[::-1] if self.orientation in SIDEWAYS else self.stored


def header(picture: Path) -> Header:
    """The header of a picture, of which nothing is decoded. Raises Damaged and OSError."""
    with picture.open("rb") as file, naming(str(picture)):
        image = Image.open(file, formats=FORMATS)
        size = image.size
        if isinstance(image, TiffImageFile):  # whose size newer Pillows turn when they open it
            size = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        # Pillow decodes a PNG to look for EXIF data behind the pixels.
        late = image.format == "PNG" and has_late_words(file)
        exif = image.getexif() if late or image.format != "PNG" else Image.Image.getexif(image)
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    return Header(size, orientation if orientation in range(1, 9) else 1)


def has_late_words(file: IO[bytes]) -> bool:
    """Whether a PNG has EXIF data, or text that may hold them, behind its first pixels."""
    place, pixels = file.seek(8), False
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        place = file.seek(place + 12 + length)
    return False


def turned(corners: Corners, header: Header) -> Corners:
    """A box in the picture as it is stored -> the same in the picture as it is seen."""
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


def placed_all(pictures: Iterable[Annotated], reading: Reading) -> list[Annotated]:
    """Every picture with its boxes in pixels of what is seen, and what is wrong with each."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(placed, reading=reading), pictures))


def placed(one: Annotated, reading: Reading) -> Annotated:
    """The same of one picture. Of a damaged picture, the annotation's size is believed."""
    # Choice: a picture is turned as its EXIF data says, as all pictures are here, and its boxes are
    # taken to be of what is seen. Some tools annotate what is stored: then the sizes differ.
    if one.picture is None or not one.boxes:
        return one
    try:
        own = header(one.picture)
    except (Damaged, OSError):
        own = Header(one.size or (float("inf"), float("inf")))
    frame = own.stored if reading.box_frame == STORED else own.seen
    if one.size not in (None, frame):
        boxes = tuple(judged(box, box.corners, one.size, reading) for box in one.boxes)
        return replace(one, boxes=boxes, wrong=of_another_size(one, own, reading))
    boxes = tuple(in_picture(box, own, frame, reading) for box in one.boxes)
    untold = own.orientation != 1 and (one.size is None or own.seen == own.stored)
    return replace(one, boxes=boxes, untold=untold)


def in_picture(box: Box, own: Header, frame: Size, reading: Reading) -> Box:
    """A box in pixels of the picture as it is seen, with what is wrong with it."""
    corners = box.corners
    if reading.box_unit == FRACTION:
        left, top, right, bottom = box.edges
        corners = (left * frame[0], top * frame[1], right * frame[0], bottom * frame[1])
    if reading.box_frame == STORED:
        return judged(box, turned(corners, own), own.seen, reading)
    return judged(box, corners, own.seen, reading)


def judged(box: Box, corners: Corners, size: Size, reading: Reading) -> Box:
    """The box there, with what is wrong with it in a picture of this size."""
    box = replace(box, corners=corners)
    return replace(box, wrong=complaint(box, size, reading))


def of_another_size(one: Annotated, own: Header, reading: Reading) -> str:
    """A sentence about an annotation that speaks of another size than its picture has."""
    assert one.size is not None and one.picture is not None
    is_turned = own.seen != own.stored
    frame = own.stored if reading.box_frame == STORED else own.seen
    said = f"{one.file}: says {in_words(one.size)} pixels, and {shown(one.picture.name)} has "
    said += in_words(frame)
    if is_turned and reading.box_frame == UPRIGHT:
        said += ", turned upright (EXIF)"
        if one.size == own.stored:
            said += f": --box-frame {STORED} turns its boxes, too"
    if is_turned and reading.box_frame == STORED:
        said += " as it is stored"
        if one.size == own.seen:
            said += f": with --box-frame {UPRIGHT} its boxes are of what is seen"
    return said


def in_words(size: Size) -> str:
    return f"{size[0]:g}x{size[1]:g}"


def untold(pictures: Iterable[Annotated], reading: Reading) -> list[str]:
    """A sentence about pictures that are turned where nothing tells whether their boxes are."""
    names = [shown(one.picture.name) for one in pictures if one.untold and one.picture]
    if not names or reading.box_frame == STORED:
        return []
    return [
        "pictures that their EXIF data turns or mirrors, and whose annotations do not tell whether "
        f"boxes are of what is seen {few(names)}; look at them with `residual data check --draw`, "
        f"and say --box-frame {STORED} if they are not"
    ]
