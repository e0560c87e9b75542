"""What is packed of a picture: its file as it came, made smaller, encoded anew, or decoded."""

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from residual.data.decode import (
    Damaged,
    contents,
    conversions,
    fitted,
    inspected,
    naming,
    opened,
    resized,
    seen,
)
from residual.data.filenames import readable, shown
from residual.data.listing import Picture
from residual.data.restarts import restarting, spaced

COLUMNS = {"path": "str", "label": "int", "picture": "bytes"}
JPEG_COLUMNS = {"interval": "uint32"}  # MCUs from one restart marker to the next; 0 where unknown
RAW_COLUMNS = {"height": "uint32", "width": "uint32"}
# Choice: what has to be encoded anew becomes JPEG of quality 95 with colours at full resolution:
# on photographs of ImageNet 1.2 grey levels off on average, against 1.6 with colours at half, for a
# quarter more bytes.
QUALITY = {"quality": 95, "subsampling": "4:4:4"}


@dataclass(frozen=True)
class How:
    """How pictures are packed."""

    shorter: int = 480  # pixels of the shorter side, where it is longer
    form: str = "jpeg"  # or raw: decoded
    quality: int = 0  # at which each is encoded anew as JPEG; 0: those that can be are kept
    skip: bool = False  # damaged pictures are packed as they are, and are damaged there, too
    workers: int = 1


@dataclass(frozen=True)
class Ready:
    """A picture to be written."""

    sample: dict[str, Any]
    digest: str
    kept: bool = False
    resized: bool = False
    changed: bool = False  # its pixels are not those of its file
    damage: str = ""


def columns(how: How) -> dict[str, str]:
    """What lies in the shards of each picture, and in which encoding of mosaicml-streaming."""
    return COLUMNS | (RAW_COLUMNS if how.form == "raw" else JPEG_COLUMNS)


def prepare(source: Path, picture: Picture, how: How, hashed: bool) -> Ready:
    """Read a picture, and make of it what is written."""
    path = readable(picture.path)  # a column of text
    sample: dict[str, Any] = {"path": path, "label": picture.label, "picture": b""}
    digest = ""
    try:
        raw = contents(source / picture.path)
        sample["picture"] = raw
        digest = hashlib.sha256(raw).hexdigest() if hashed else ""
        if how.form == "jpeg" and not how.quality and stays(raw, how.shorter):
            made, interval = restarting(raw)
            return Ready(sample | {"picture": made, "interval": interval}, digest, kept=True)
        image = seen(raw)
    except (Damaged, OSError) as error:
        why = str(error).removeprefix("the picture ")
        if isinstance(error, OSError):
            why = f"is damaged: {error.strerror or error}"
        unknown = dict.fromkeys(RAW_COLUMNS if how.form == "raw" else JPEG_COLUMNS, 0)
        return Ready(sample | unknown, digest, damage=f"{shown(source / picture.path)} {why}")
    small = image
    if min(image.size) > how.shorter:
        small = resized(image, fitted(image.size, how.shorter)[::-1])
    smaller = small is not image
    if how.form == "raw":
        sample |= {"picture": small.tobytes(), "height": small.height, "width": small.width}
    else:
        sample["picture"], sample["interval"] = encoded(small, how)
    return Ready(sample, digest, resized=smaller, changed=smaller or how.form == "jpeg")


def stays(raw: bytes, shorter: int) -> bool:
    """Whether a file is kept: a JPEG that is neither turned nor made smaller. Raises Damaged."""
    if not raw:
        return False
    with naming("the picture"):
        image = opened(raw)
        if image.format != "JPEG" or min(image.size) > shorter:
            return False
        if {*conversions(image)} - {"grey to RGB"}:
            return False
    inspected(raw)
    return True


def encoding(how: How) -> dict[str, Any]:
    """How a picture becomes JPEG; where a quality is asked for, with colours at half resolution."""
    return {"quality": how.quality, "subsampling": "4:2:0"} if how.quality else QUALITY


def encoded(image: Image.Image, how: How) -> tuple[bytes, int]:
    """A picture as JPEG, and how many MCUs lie between its restart markers."""
    asked, file = encoding(how), io.BytesIO()
    mcu = 8 if asked["subsampling"] == "4:4:4" else 16
    interval = spaced(math.ceil(image.width / mcu))
    image.save(file, "JPEG", **asked, restart_marker_blocks=interval)
    return file.getvalue(), interval
