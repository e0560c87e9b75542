"""Packed data: shards of mosaicml-streaming in a folder or an object store, in our own order."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from residual.data.datasets import Data, ImageFiles, fingerprint
from residual.data.decode import (
    DamagedImage,
    DecodedImage,
    Picture,
    check_pixel_count,
    damage_context,
    decode_jpeg_bytes,
    open_picture,
)
from residual.data.rng import packing_order
from residual.storage import check_format, damage_errors, read_json

CONTENTS_FILE = "packed.json"  # what lies there, written last: without it nothing is packed
COPY_SUFFIX = " (packed copy)"  # ends the name of a copy with other pixels than its source has
SHARD = re.compile(r"shard\.[0-9]+\.mds")


def require_streaming() -> None:
    """Raises ValueError, saying what to install, where the extra is missing."""
    try:
        import streaming  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "streaming":
            raise
        raise ValueError(
            "packed data needs mosaicml-streaming: pip install 'residual-learning[cloud]'"
        ) from None


def is_remote(where: str) -> bool:
    """Whether this is a place in an object store, such as s3://bucket/pictures."""
    return re.match(r"[a-z][a-z0-9+.-]+://", where) is not None


def is_packed(where: str) -> bool:
    """Whether this names packed data, as far as can be told without asking an object store."""
    return is_remote(where) or (Path(where).expanduser() / CONTENTS_FILE).is_file()


class PackedSource:
    """The pictures of one set, numbered as they lie in its shards.

    Shards in an object store are fetched when one of their pictures is asked for, each once,
    whichever process of this machine asks first. Nothing else is remembered, so any process may
    read any picture at any time.
    """

    def __init__(self, shards: Sequence[dict[str, Any]], folder: Path, remote: str = "") -> None:
        from streaming.base.format import reader_from_json

        self.folder, self.remote = folder, remote
        self.readers = [reader_from_json(str(folder), None, shard) for shard in shards]
        for reader in self.readers:
            reader.validate(allow_unsafe_types=False)  # of a pickle, which could do anything
            if not SHARD.fullmatch(reader.raw_data.basename):
                raise ValueError(f"a shard in {remote or folder} has an improper name")
        self.ends = np.cumsum([reader.samples for reader in self.readers], dtype=np.int64)
        self.there: set[int] = set()  # shards that are known to lie in the folder

    def name(self, i: int) -> str:
        return str(self.sample(i)["path"])

    def image(self, i: int) -> Picture:
        sample = self.sample(i)
        name = f"{sample['path']} in {self.remote or self.folder}"
        if sample.get("height"):
            with damage_context(name):
                shape = (int(sample["height"]), int(sample["width"]), 3)
                return DecodedImage(np.frombuffer(sample["picture"], np.uint8).reshape(shape))
        if sample.get("interval"):
            return RestartJpeg(sample["picture"], int(sample["interval"]), name)
        try:
            return open_picture(sample["picture"])
        except DamagedImage as error:
            raise DamagedImage(f"{name} {str(error).removeprefix('the picture ')}") from error

    def sample(self, i: int) -> dict[str, Any]:
        """What was packed: the columns that packable.py names."""
        shard = int(np.searchsorted(self.ends, i, side="right"))
        if shard not in self.there:
            self.bring(shard)
        reader = self.readers[shard]
        with damage_context(f"picture {i} of {self.folder / reader.raw_data.basename}"):
            sample: dict[str, Any] = reader[i - int(self.ends[shard]) + reader.samples]
            if not isinstance(sample["path"], str) or not isinstance(sample["picture"], bytes):
                raise ValueError("it has no name or no picture")
            return sample

    def bring(self, shard: int) -> None:
        """See to it that a shard lies whole in the folder. Raises OSError, naming it."""
        info = self.readers[shard].raw_data
        file = self.folder / info.basename
        if self.remote and not file.exists():
            from filelock import FileLock

            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if not file.exists():
                    download_shard(f"{self.remote}/{info.basename}", file, info.hashes)
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}, which belongs to packed data")
        if file.stat().st_size != info.bytes:
            raise OSError(f"{file} is damaged: it has {file.stat().st_size:,} bytes, not the "
                          f"{info.bytes:,} that were packed")  # fmt: skip
        self.there.add(shard)


def download_object(remote: str, file: Path) -> None:
    """A file from an object store. Raises FileNotFoundError or OSError, in a sentence."""
    from streaming.base.storage.download import CloudDownloader

    try:
        CloudDownloader.direct_download(remote, str(file))
    except Exception as error:  # each store has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if isinstance(error, FileNotFoundError) or code in ("404", "NoSuchKey", "NoSuchBucket"):
            raise FileNotFoundError(f"there is no {remote}") from error
        raise OSError(f"{remote} cannot be read: {reason}") from error


def download_shard(remote: str, file: Path, hashes: dict[str, str]) -> None:
    """The same, checked, and whole or not at all."""
    from streaming.base.hashing import get_hash

    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    download_object(remote, partial)
    raw = partial.read_bytes()
    if any(get_hash(kind, raw) != expected for kind, expected in hashes.items()):
        partial.unlink()
        raise OSError(f"{remote} is damaged: it is not what was packed")
    partial.replace(file)


def read_contents(where: str) -> tuple[dict[str, Any], str]:
    """What is packed there, and a key that is another for any other contents."""
    if not is_remote(where):
        file = Path(where).expanduser() / CONTENTS_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{where} has no {CONTENTS_FILE}: nothing is packed there")
        found, raw = read_json(file), file.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            download_object(f"{where.rstrip('/')}/{CONTENTS_FILE}", Path(folder) / CONTENTS_FILE)
            raw = (Path(folder) / CONTENTS_FILE).read_bytes()
        with damage_errors(f"{where}/{CONTENTS_FILE}"):
            found = json.loads(raw)
    if not isinstance(found, dict) or "sets" not in found:
        raise ValueError(f"{where}/{CONTENTS_FILE} is damaged: it names no sets")
    check_format(Path(CONTENTS_FILE), found.get("format"))
    return found, hashlib.sha256(raw).hexdigest()


def open_packed(where: str, root: Path) -> Data:
    """The photographs in a folder or an object store, as in the folder that they were packed from.

    They have its numbers, so the same seed draws the same pictures; and its name and fingerprint,
    unless some have other pixels than there: see `identity`. What is fetched is kept under
    `root/packed`. Raises ValueError without the extra and OSError.
    """
    require_streaming()
    found, key = read_contents(where)
    with damage_errors(f"{where.rstrip('/')}/{CONTENTS_FILE}"):
        return _opened(where, root, found, key)


def _opened(where: str, root: Path, found: dict[str, Any], key: str) -> Data:
    """The same, of contents that were read."""
    remote = where.rstrip("/") if is_remote(where) else ""
    folder = root.expanduser() / "packed" / key[:32] if remote else Path(where).expanduser()
    sets: dict[str, Any] = {}  # of Photographs
    for name, own in found["sets"].items():
        source = PackedSource(own["shards"], folder / name, remote and f"{remote}/{name}")
        labels = torch.arange(len(found["classes"])).repeat_interleave(torch.tensor(own["counts"]))
        sets[name] = ImageFiles(source, packing_order(len(labels)).argsort(), labels)
    resized = found["resized"]
    notice = (
        f"{resized:,} of {found['pictures']:,} pictures were made smaller when they were packed, "
        f"to a shorter side of {found['shorter_side']}"
    )
    name, mark, former = identity(found)
    return Data(
        name,
        mark,
        tuple(found["classes"]),
        **sets,
        notices=(notice,) if resized else (),
        former=former,
    )


def identity(found: dict[str, Any]) -> tuple[str, str, str]:
    """The name and the fingerprint of packed data, and the fingerprint that it had before.

    Older packed data says that it is its source, even where pictures were made smaller or encoded
    anew, as its counts tell. Then it gets a fingerprint of source and change.
    """
    name, mark = str(found["name"]), str(found["fingerprint"])
    whole = found["pictures"] if found["as"] == "raw" else found["kept"] + len(found["damaged"])
    if "source" in found or (whole == found["pictures"] and not found["resized"]):
        return name, mark, ""
    about = ("as", "quality", "shorter_side", "pictures", "kept", "resized", "damaged")
    change = json.dumps({key: found[key] for key in about}, sort_keys=True)
    quick = "quick-" if mark.startswith("quick-") else ""
    return f"{name}{COPY_SUFFIX}", f"{quick}{fingerprint([(mark, change, 0, '')])}", mark


SEQUENTIAL = (0xC0, 0xC1)  # frames that are coded in one go, by Huffman

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

SCAN = 0xDA

# Samples of luminance for one of each colour, across and down, that every reader knows.
SAMPLED = (0x11, 0x21, 0x12, 0x22, 0x41, 0x14)

LEAST = 4  # MCUs between two markers: with fewer, the markers themselves take room and time

REACH = 1  # pixel beyond a part that its colours are interpolated from, where those are at half


@dataclass(frozen=True)
class JpegFrame:
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


def read_frame(raw: bytes) -> JpegFrame:
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
    check_pixel_count(width, height)
    data = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    mcu = 8 * (luminance >> 4), 8 * (luminance & 15)
    return JpegFrame(raw[own + 1], own + 5, width, height, mcu, data)


def restart_interval(across: int) -> int:
    """How many MCUs lie between two markers: a part of a row that all rows can be divided into."""
    return min(each for each in range(min(LEAST, across), across + 1) if across % each == 0)


def restart_markers(data: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where restart markers stand in coded data."""
    full = np.flatnonzero(data[:-1] == 0xFF)
    found: NDArray[np.intp] = full[data[full + 1] & 0xF8 == 0xD0]
    return found


class RestartJpeg:
    """A picture in a JPEG with so many MCUs between restart markers, decoded as it is needed."""

    def __init__(self, raw: bytes, interval: int, name: str = "the picture") -> None:
        """Raises Damaged where the markers do not stand as they should."""
        with damage_context(name):
            self.raw, self.interval, self.name, self.frame = raw, interval, name, read_frame(raw)
            own = self.frame
            self.size = own.width, own.height
            found = own.data + restart_markers(np.frombuffer(raw, np.uint8)[own.data : -2])
            marked = own.across % interval == 0
            marked &= (len(found) + 1) * interval == own.across * own.down
            if own.kind not in SEQUENTIAL or not marked:
                raise ValueError("it has not the restart markers that it was packed with")
            self.starts = np.concatenate([[own.data], found + 2])
            self.ends = np.concatenate([found, [len(raw) - 2]])

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3). Raises Damaged."""
        with damage_context(self.name):
            return decode_jpeg_bytes(self.raw)

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
        with damage_context(self.name):
            found = decode_jpeg_bytes(self.smaller(sides, each))
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


def add_restart_markers(raw: bytes) -> tuple[bytes, int]:
    """A JPEG of the same pixels with restart markers, and how many MCUs lie between them; where
    jpegtran, a part of every libjpeg, is not here or cannot make one, the same file and 0."""
    tool = shutil.which("jpegtran")
    if tool is not None:
        with suppress(ValueError, OSError, Image.DecompressionBombError):
            interval = restart_interval(read_frame(raw).across)
            asked = [tool, "-copy", "none", "-optimize", "-restart", f"{interval}B"]
            made = subprocess.run(asked, input=raw, capture_output=True, check=False)
            if has_same_pixels(raw, made.stdout, interval):
                return made.stdout, interval
    return raw, 0


def has_same_pixels(raw: bytes, made: bytes, interval: int) -> bool:
    """Whether a JPEG that was made of another has its pixels, whole and in part."""
    before, after = decode_jpeg_bytes(raw), RestartJpeg(made, interval)
    width, height = after.size
    box = width // 3, height // 3, max(width // 2, 1), max(height // 2, 1)
    part = before[box[1] : box[3], box[0] : box[2]]
    return np.array_equal(before, after.pixels) and np.array_equal(part, after.part(*box))
