"""Packed data: shards of mosaicml-streaming in a folder or an object store, in our own order."""

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from residual.data.datasets import Data, Photographs, fingerprint
from residual.data.decode import Damaged, Decoded, Picture, in_part, naming
from residual.data.partial_jpeg import Restarting
from residual.data.rng import packing_order
from residual.storage import check_format, read_json, reading

CONTENTS = "packed.json"  # what lies there, written last: without it nothing is packed
COPY = " (packed copy)"  # ends the name of a copy with other pixels than its source has
SHARD = re.compile(r"shard\.[0-9]+\.mds")


def need_streaming() -> None:
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
    return is_remote(where) or (Path(where).expanduser() / CONTENTS).is_file()


class Packed:
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
            with naming(name):
                shape = (int(sample["height"]), int(sample["width"]), 3)
                return Decoded(np.frombuffer(sample["picture"], np.uint8).reshape(shape))
        if sample.get("interval"):
            return Restarting(sample["picture"], int(sample["interval"]), name)
        try:
            return in_part(sample["picture"])
        except Damaged as error:
            raise Damaged(f"{name} {str(error).removeprefix('the picture ')}") from error

    def sample(self, i: int) -> dict[str, Any]:
        """What was packed: the columns that packable.py names."""
        shard = int(np.searchsorted(self.ends, i, side="right"))
        if shard not in self.there:
            self.bring(shard)
        reader = self.readers[shard]
        with naming(f"picture {i} of {self.folder / reader.raw_data.basename}"):
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
                    fetch_shard(f"{self.remote}/{info.basename}", file, info.hashes)
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}, which belongs to packed data")
        if file.stat().st_size != info.bytes:
            raise OSError(f"{file} is damaged: it has {file.stat().st_size:,} bytes, not the "
                          f"{info.bytes:,} that were packed")  # fmt: skip
        self.there.add(shard)


def fetch(remote: str, file: Path) -> None:
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


def fetch_shard(remote: str, file: Path, hashes: dict[str, str]) -> None:
    """The same, checked, and whole or not at all."""
    from streaming.base.hashing import get_hash

    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    fetch(remote, partial)
    raw = partial.read_bytes()
    if any(get_hash(kind, raw) != expected for kind, expected in hashes.items()):
        partial.unlink()
        raise OSError(f"{remote} is damaged: it is not what was packed")
    partial.replace(file)


def contents(where: str) -> tuple[dict[str, Any], str]:
    """What is packed there, and a key that is another for any other contents."""
    if not is_remote(where):
        file = Path(where).expanduser() / CONTENTS
        if not file.is_file():
            raise FileNotFoundError(f"{where} has no {CONTENTS}: nothing is packed there")
        found, raw = read_json(file), file.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            fetch(f"{where.rstrip('/')}/{CONTENTS}", Path(folder) / CONTENTS)
            raw = (Path(folder) / CONTENTS).read_bytes()
        with reading(f"{where}/{CONTENTS}"):
            found = json.loads(raw)
    if not isinstance(found, dict) or "sets" not in found:
        raise ValueError(f"{where}/{CONTENTS} is damaged: it names no sets")
    check_format(Path(CONTENTS), found.get("format"))
    return found, hashlib.sha256(raw).hexdigest()


def open_packed(where: str, root: Path) -> Data:
    """The photographs in a folder or an object store, as in the folder that they were packed from.

    They have its numbers, so the same seed draws the same pictures; and its name and fingerprint,
    unless some have other pixels than there: see `identity`. What is fetched is kept under
    `root/packed`. Raises ValueError without the extra and OSError.
    """
    need_streaming()
    found, key = contents(where)
    with reading(f"{where.rstrip('/')}/{CONTENTS}"):
        return _opened(where, root, found, key)


def _opened(where: str, root: Path, found: dict[str, Any], key: str) -> Data:
    """The same, of contents that were read."""
    remote = where.rstrip("/") if is_remote(where) else ""
    folder = root.expanduser() / "packed" / key[:32] if remote else Path(where).expanduser()
    sets: dict[str, Any] = {}  # of Photographs
    for name, own in found["sets"].items():
        source = Packed(own["shards"], folder / name, remote and f"{remote}/{name}")
        labels = torch.arange(len(found["classes"])).repeat_interleave(torch.tensor(own["counts"]))
        sets[name] = Photographs(source, packing_order(len(labels)).argsort(), labels)
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
    return f"{name}{COPY}", f"{quick}{fingerprint([(mark, change, 0, '')])}", mark
