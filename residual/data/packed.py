"""Packed data: mosaicml-streaming shards, and JPEGs of which a part can be decoded.

Between two restart markers of a JPEG lie the same number of MCUs, its blocks of a few pixels, and
their data depends on nothing before (ITU-T T.81, E.1.4). So the data of a part, under the header of
a smaller image, is a JPEG too, and its pixels are those of the whole image.
"""

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
from residual.storage import check_format, damage_errors

CONTENTS_FILE = "packed.json"  # written last: without it nothing is packed
COPY_SUFFIX = " (packed copy)"  # of the name of a copy with other pixels than its source
SHARD = re.compile(r"shard\.[0-9]+\.mds")

SEQUENTIAL = (0xC0, 0xC1)  # frames of one pass, coded by Huffman
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN = 0xDA
SAMPLINGS = (0x11, 0x21, 0x12, 0x22, 0x41, 0x14)  # of luminance, that all decoders know
MIN_INTERVAL = 4  # MCUs between two markers: with fewer, the markers take room and time
REACH = 1  # pixel around a part that its subsampled colours are interpolated from


def require_streaming() -> None:
    """Raises ValueError with the command that installs the missing extra."""
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
    """Whether this names packed data. No object store is asked."""
    return is_remote(where) or (Path(where).expanduser() / CONTENTS_FILE).is_file()


class PackedSource:
    """The images of one split, numbered by their place in its shards.

    A shard in an object store is downloaded once, when any process of this machine asks for one of
    its images.
    """

    def __init__(self, shards: Sequence[dict[str, Any]], folder: Path, remote: str = "") -> None:
        from streaming.base.format import reader_from_json

        self.folder, self.remote = folder, remote
        self.readers = [reader_from_json(str(folder), None, shard) for shard in shards]
        for reader in self.readers:
            reader.validate(allow_unsafe_types=False)  # no pickles, which could run code
            if not SHARD.fullmatch(reader.raw_data.basename):
                raise ValueError(f"a shard in {remote or folder} has an improper name")
        self.ends = np.cumsum([reader.samples for reader in self.readers], dtype=np.int64)
        self.local: set[int] = set()  # shards in the folder

    def name(self, i: int) -> str:
        """The path of an image, or its number where the path cannot be read."""
        try:
            return str(self.sample(i)["path"])
        except (DamagedImage, OSError):
            return f"picture {i}"

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
        """The columns of an image. Raises DamagedImage and OSError."""
        shard = int(np.searchsorted(self.ends, i, side="right"))
        if shard not in self.local:
            self._download(shard)
        reader = self.readers[shard]
        with damage_context(f"picture {i} of {self.folder / reader.raw_data.basename}"):
            sample: dict[str, Any] = reader[i - int(self.ends[shard]) + reader.samples]
            path, picture = sample["path"], sample["picture"]
            if not (path and isinstance(path, str) and isinstance(picture, bytes)):
                raise ValueError("it has no name or no picture")
            return sample

    def _download(self, shard: int) -> None:
        """Make sure that the folder holds a shard. Raises OSError, naming it."""
        info = self.readers[shard].raw_data
        file = self.folder / info.basename
        if self.remote and not file.exists():
            from filelock import FileLock

            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if not file.exists():
                    _download_shard(f"{self.remote}/{info.basename}", file, info.hashes)
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}, which belongs to packed data")
        size = file.stat().st_size
        if size != info.bytes:
            raise OSError(
                f"{file} is damaged: it has {size:,} bytes, not the {info.bytes:,} that were packed"
            )
        self.local.add(shard)


def download_object(remote: str, file: Path) -> None:
    """Download a file from an object store. Raises FileNotFoundError or OSError."""
    from streaming.base.storage.download import CloudDownloader

    try:
        CloudDownloader.direct_download(remote, str(file))
    except Exception as error:  # each store has other errors
        reason = " ".join(str(error).split()) or type(error).__name__
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if isinstance(error, FileNotFoundError) or code in ("404", "NoSuchKey", "NoSuchBucket"):
            raise FileNotFoundError(f"there is no {remote}") from error
        raise OSError(f"{remote} cannot be read: {reason}") from error


def _download_shard(remote: str, file: Path, hashes: dict[str, str]) -> None:
    """Download a shard, verified, and whole or not at all."""
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
    """The table of contents, and its sha256."""
    place = f"{where.rstrip('/')}/{CONTENTS_FILE}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(where).expanduser() / CONTENTS_FILE
        if is_remote(where):
            file = Path(folder) / CONTENTS_FILE
            download_object(place, file)
        elif not file.is_file():
            raise FileNotFoundError(f"{where} has no {CONTENTS_FILE}: nothing is packed there")
        raw = file.read_bytes()
    with damage_errors(place):
        contents = json.loads(raw)
    if not isinstance(contents, dict) or "sets" not in contents:
        raise ValueError(f"{place} is damaged: it names no sets")
    check_format(place, contents.get("format"))
    return contents, hashlib.sha256(raw).hexdigest()


def open_packed(where: str, root: Path) -> Data:
    """The images in a folder or an object store, in the splits of the folder they were packed from.

    They keep that folder's numbers, so that a seed draws the same images, and its name and
    fingerprint unless pixels changed (see `identity`). Shards are downloaded to `root/packed`.
    Raises ValueError without the extra, and OSError.
    """
    require_streaming()
    contents, key = read_contents(where)
    place = where.rstrip("/")
    with damage_errors(f"{place}/{CONTENTS_FILE}"):
        remote = place if is_remote(where) else ""
        folder = root.expanduser() / "packed" / key[:32] if remote else Path(where).expanduser()
        sets: dict[str, Any] = {}
        for split, part in contents["sets"].items():
            source = PackedSource(part["shards"], folder / split, remote and f"{remote}/{split}")
            counts = torch.tensor(part["counts"])
            labels = torch.arange(len(contents["classes"])).repeat_interleave(counts)
            sets[split] = ImageFiles(source, packing_order(len(labels)).argsort(), labels)
        notice = (
            f"{contents['resized']:,} of {contents['pictures']:,} pictures were made smaller when "
            f"they were packed, to a shorter side of {contents['shorter_side']}"
        )
        notices = (notice,) if contents["resized"] else ()
        name, mark, former = identity(contents)
        classes = tuple(contents["classes"])
        return Data(name, mark, classes, **sets, notices=notices, former=former)


def identity(contents: dict[str, Any]) -> tuple[str, str, str]:
    """The name, the fingerprint, and the fingerprint that older versions computed.

    Data that an older version packed has its source's fingerprint, even if its counts tell that
    images were resized or encoded again. It then gets a fingerprint of the source and the change.
    """
    name, mark = str(contents["name"]), str(contents["fingerprint"])
    kept = contents["pictures"]
    if contents["as"] != "raw":
        kept = contents["kept"] + len(contents["damaged"])
    if "source" in contents or (kept == contents["pictures"] and not contents["resized"]):
        return name, mark, ""
    about = ("as", "quality", "shorter_side", "pictures", "kept", "resized", "damaged")
    change = json.dumps({key: contents[key] for key in about}, sort_keys=True)
    changed = fingerprint([(mark, change, 0, "")], quick=mark.startswith("quick-"))
    return f"{name}{COPY_SUFFIX}", changed, mark


@dataclass(frozen=True)
class JpegFrame:
    """The header of a JPEG."""

    kind: int
    size_at: int  # offset of the image's height and width
    width: int
    height: int
    mcu: tuple[int, int]  # pixels, across and down
    data: int  # offset of the first scan's data

    @property
    def across(self) -> int:
        """MCUs in a row."""
        return math.ceil(self.width / self.mcu[0])

    @property
    def down(self) -> int:
        """Rows of MCUs."""
        return math.ceil(self.height / self.mcu[1])


def _read_frame(raw: bytes) -> JpegFrame:
    """The header of an RGB JPEG with a usual sampling. Raises ValueError for any other."""
    at, frame = 2, 0
    try:
        while raw[at + 1] != SCAN:
            if raw[at + 1] in FRAMES:
                frame = at
            at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        channels, scanned = raw[frame + 9], raw[at + 4]
        luminance, *others = (raw[frame + offset] for offset in (11, 14, 17))
    except IndexError:
        raise ValueError("its header is damaged") from None
    height, width = (int.from_bytes(raw[frame + i : frame + i + 2], "big") for i in (5, 7))
    usual = luminance in SAMPLINGS and others == [0x11, 0x11]
    if (frame and channels, scanned) != (3, 3) or not usual:
        raise ValueError("it is not in three colours, sampled in a usual way, in one scan")
    if not width or not height:
        raise ValueError("its header is damaged")
    check_pixel_count(width, height)
    data = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    mcu = 8 * (luminance >> 4), 8 * (luminance & 15)
    return JpegFrame(raw[frame + 1], frame + 5, width, height, mcu, data)


class RestartJpeg:
    """An image in a JPEG with `interval` MCUs between restart markers, decoded in part."""

    def __init__(self, raw: bytes, interval: int, name: str = "the picture") -> None:
        """Raises DamagedImage if the markers are not where they should be."""
        with damage_context(name):
            self.raw, self.interval, self.name = raw, interval, name
            self.frame = frame = _read_frame(raw)
            self.size = frame.width, frame.height
            data = np.frombuffer(raw, np.uint8)[frame.data : -2]
            escapes = np.flatnonzero(data[:-1] == 0xFF)
            markers = frame.data + escapes[data[escapes + 1] & 0xF8 == 0xD0]
            fits = frame.across % interval == 0
            fits &= (len(markers) + 1) * interval == frame.across * frame.down
            if frame.kind not in SEQUENTIAL or not fits:
                raise ValueError("it has not the restart markers that it was packed with")
            self.starts = np.concatenate([[frame.data], markers + 2])
            self.ends = np.concatenate([markers, [len(raw) - 2]])

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3). Raises DamagedImage."""
        with damage_context(self.name):
            return decode_jpeg_bytes(self.raw)

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """The pixels between these borders, of which only the MCUs are decoded. Raises
        DamagedImage."""
        frame, (width, height) = self.frame, self.frame.mcu
        wide, columns = width * self.interval, frame.across // self.interval
        first, last = max(0, left - REACH) // wide, min(columns, -(-(right + REACH) // wide))
        high, low = max(0, top - REACH) // height, min(frame.down, -(-(bottom + REACH) // height))
        sides = (
            min(frame.height, low * height) - high * height,
            min(frame.width, last * wide) - first * wide,
        )
        intervals = np.arange(high, low)[:, None] * columns + np.arange(first, last)
        with damage_context(self.name):
            pixels = decode_jpeg_bytes(self._cut(sides, intervals))
        y, x = top - high * height, left - first * wide
        return pixels[y : y + bottom - top, x : x + right - left]

    def _cut(self, sides: tuple[int, int], intervals: NDArray[np.intp]) -> bytearray:
        """A JPEG of some intervals, (rows, columns), with its height and width."""
        frame, size = self.frame, b"".join(side.to_bytes(2, "big") for side in sides)
        starts, ends = self.starts[intervals], self.ends[intervals]
        rows = zip(starts[:, 0].tolist(), ends[:, -1].tolist(), strict=True)
        data = b"\xff\xd0".join([self.raw[start:end] for start, end in rows])
        head, rest = self.raw[: frame.size_at], self.raw[frame.size_at + 4 : frame.data]
        jpeg = bytearray().join((head, size, rest, data, b"\xff\xd9"))
        # Markers are counted modulo 8, from the first one on.
        markers = frame.data + np.cumsum(ends - starts + 2)[:-1] - 1
        np.frombuffer(jpeg, np.uint8)[markers] = 0xD0 + np.arange(len(markers)) % 8
        return jpeg


def restart_interval(across: int) -> int:
    """The MCUs between two markers: the smallest suitable divisor of a row."""
    return min(n for n in range(min(MIN_INTERVAL, across), across + 1) if across % n == 0)


def add_restart_markers(raw: bytes) -> tuple[bytes, int]:
    """A JPEG of the same pixels with restart markers, and the MCUs between them.

    Returns the same file and 0 if jpegtran, a part of libjpeg, is missing or cannot do it.
    """
    tool = shutil.which("jpegtran")
    if tool is not None:
        with suppress(ValueError, OSError, Image.DecompressionBombError):
            interval = restart_interval(_read_frame(raw).across)
            command = [tool, "-copy", "none", "-optimize", "-restart", f"{interval}B"]
            jpeg = subprocess.run(command, input=raw, capture_output=True, check=False).stdout
            if _has_same_pixels(raw, jpeg, interval):
                return jpeg, interval
    return raw, 0


def _has_same_pixels(raw: bytes, copy: bytes, interval: int) -> bool:
    """Whether a JPEG that was made of another has its pixels, whole and in part."""
    expected, jpeg = decode_jpeg_bytes(raw), RestartJpeg(copy, interval)
    width, height = jpeg.size
    box = width // 3, height // 3, max(width // 2, 1), max(height // 2, 1)
    part = expected[box[1] : box[3], box[0] : box[2]]
    return np.array_equal(expected, jpeg.pixels) and np.array_equal(part, jpeg.part(*box))
