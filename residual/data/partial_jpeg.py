"""JPEGs with restart markers: of a large picture, only the part that is needed is decoded.

Between two restart markers lie the same number of MCUs, the blocks of a few pixels that a JPEG is
made of, and their data depends on nothing before (ITU-T T.81, E.1.4). So the data of a part, under
the header of a smaller picture, is a JPEG too, and its pixels are those of the whole.
"""

import math
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residual.data.decode import jpeg_pixels, naming, refuse_bomb

SEQUENTIAL = (0xC0, 0xC1)  # frames that are coded in one go, by Huffman
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN = 0xDA
# Samples of luminance for one of each colour, across and down, that every reader knows.
SAMPLED = (0x11, 0x21, 0x12, 0x22, 0x41, 0x14)
LEAST = 4  # MCUs between two markers: with fewer, the markers themselves take room and time
REACH = 1  # pixel beyond a part that its colours are interpolated from, where those are at half


@dataclass(frozen=True)
class Frame:
    """What a JPEG's header says."""

    kind: int
    at: int  # where its size stands
    width: int
    height: int
    mcu: tuple[int, int]  # pixels, across and down
    data: int  # where the first scan's begins

    @property
    def across(self) -> int:
        """MCUs in a row of them."""
        return math.ceil(self.width / self.mcu[0])

    @property
    def down(self) -> int:
        return math.ceil(self.height / self.mcu[1])


def frame(raw: bytes) -> Frame:
    """Of a JPEG in three colours, sampled in a usual way. Raises ValueError for another."""
    at, own = 2, 0
    try:
        while raw[at + 1] != SCAN:
            if raw[at + 1] in FRAMES:
                own = at
            at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        colours, scanned = raw[own + 9], raw[at + 4]
        luminance, *others = (raw[own + each] for each in (11, 14, 17))
    except IndexError:
        raise ValueError("its header is damaged") from None
    height, width = (int.from_bytes(raw[own + each : own + each + 2], "big") for each in (5, 7))
    if (own and colours, scanned) != (3, 3) or luminance not in SAMPLED or others != [0x11, 0x11]:
        raise ValueError("it is not in three colours, sampled in a usual way, in one scan")
    if not width or not height:
        raise ValueError("its header is damaged")
    refuse_bomb(width, height)
    data = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    mcu = 8 * (luminance >> 4), 8 * (luminance & 15)
    return Frame(raw[own + 1], own + 5, width, height, mcu, data)


def spaced(across: int) -> int:
    """How many MCUs lie between two markers: a part of a row that all rows can be divided into."""
    return min(each for each in range(min(LEAST, across), across + 1) if across % each == 0)


def marks(data: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where restart markers stand in coded data."""
    full = np.flatnonzero(data[:-1] == 0xFF)
    found: NDArray[np.intp] = full[data[full + 1] & 0xF8 == 0xD0]
    return found


class Restarting:
    """A picture in a JPEG with so many MCUs between restart markers, decoded as it is needed."""

    def __init__(self, raw: bytes, interval: int, name: str = "the picture") -> None:
        """Raises Damaged where the markers do not stand as they should."""
        with naming(name):
            self.raw, self.interval, self.name, self.frame = raw, interval, name, frame(raw)
            own = self.frame
            self.size = own.width, own.height
            found = own.data + marks(np.frombuffer(raw, np.uint8)[own.data : -2])
            marked = own.across % interval == 0
            marked &= (len(found) + 1) * interval == own.across * own.down
            if own.kind not in SEQUENTIAL or not marked:
                raise ValueError("it has not the restart markers that it was packed with")
            self.starts = np.concatenate([[own.data], found + 2])
            self.ends = np.concatenate([found, [len(raw) - 2]])

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3). Raises Damaged."""
        with naming(self.name):
            return jpeg_pixels(self.raw)

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """The same pixels between these borders, without the others. Raises Damaged."""
        own, (width, height) = self.frame, self.frame.mcu
        wide, columns = width * self.interval, own.across // self.interval
        first, last = max(0, left - REACH) // wide, min(columns, -(-(right + REACH) // wide))
        high, low = max(0, top - REACH) // height, min(own.down, -(-(bottom + REACH) // height))
        sides = (
            min(own.height, low * height) - high * height,
            min(own.width, last * wide) - first * wide,
        )
        each = np.arange(high, low)[:, None] * columns + np.arange(first, last)
        with naming(self.name):
            found = jpeg_pixels(self.smaller(sides, each))
        y, x = top - high * height, left - first * wide
        return found[y : y + bottom - top, x : x + right - left]

    def smaller(self, sides: tuple[int, int], intervals: NDArray[np.intp]) -> bytearray:
        """A JPEG of its own of some intervals, (rows, columns), with its height and width."""
        own, size = self.frame, b"".join(side.to_bytes(2, "big") for side in sides)
        starts, ends = self.starts[intervals], self.ends[intervals]
        rows = zip(starts[:, 0].tolist(), ends[:, -1].tolist(), strict=True)
        coded = b"\xff\xd0".join([self.raw[start:end] for start, end in rows])
        parts = self.raw[: own.at], size, self.raw[own.at + 4 : own.data], coded, b"\xff\xd9"
        made = bytearray().join(parts)
        # Markers are counted modulo 8, from the first one on.
        markers = own.data + np.cumsum(ends - starts + 2)[:-1] - 1
        np.frombuffer(made, np.uint8)[markers] = 0xD0 + np.arange(len(markers)) % 8
        return made


def restarting(raw: bytes) -> tuple[bytes, int]:
    """A JPEG of the same pixels with restart markers, and how many MCUs lie between them; where
    jpegtran, a part of every libjpeg, is not here or cannot make one, the same file and 0."""
    tool = shutil.which("jpegtran")
    if tool is not None:
        with suppress(ValueError, OSError, Image.DecompressionBombError):
            interval = spaced(frame(raw).across)
            asked = [tool, "-copy", "none", "-optimize", "-restart", f"{interval}B"]
            made = subprocess.run(asked, input=raw, capture_output=True, check=False)
            if equal(raw, made.stdout, interval):
                return made.stdout, interval
    return raw, 0


def equal(raw: bytes, made: bytes, interval: int) -> bool:
    """Whether a JPEG that was made of another has its pixels, whole and in part."""
    before, after = jpeg_pixels(raw), Restarting(made, interval)
    width, height = after.size
    box = width // 3, height // 3, max(width // 2, 1), max(height // 2, 1)
    part = before[box[1] : box[3], box[0] : box[2]]
    return np.array_equal(before, after.pixels) and np.array_equal(part, after.part(*box))
