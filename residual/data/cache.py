"""Decoded pictures kept in a file, so that they need to be decoded only once."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from residual.data.decode import VERSION
from residual.data.filenames import SETS, encoded
from residual.data.images import Data, Images, small
from residual.data.listing import Listing


def key(path: Path, listed: Listing, size: int) -> str:
    """The same key, the same pixels: changes with every file that is added, removed or written."""
    # The place counts as well: unpacked archives often give all files one time, and uncompressed
    # pictures all have one size.
    digest = hashlib.sha256(encoded(f"{path.resolve()}\t{size}\t{VERSION}\n"))
    for name, pictures in listed.sets.items():
        for picture in sorted(pictures, key=lambda picture: picture.path):
            entry = (name, picture.path, picture.label, picture.bytes, picture.changed_ns)
            digest.update(encoded("\t".join(map(str, entry)) + "\n"))
    return digest.hexdigest()


def keep(data: Data, file: Path) -> None:
    """Write decoded data whole, or not at all. Raises OSError where that cannot be done."""
    there = {name: getattr(data, name) for name in SETS}
    sets = {name: small(images) for name, images in there.items() if images is not None}
    tensors = {f"{name}.pixels": images.pixels.contiguous() for name, images in sets.items()}
    tensors |= {f"{name}.labels": images.labels for name, images in sets.items()}
    header = {
        "fingerprint": data.fingerprint,
        "classes": json.dumps(data.classes),
        "notices": json.dumps(data.notices),
        "damaged": json.dumps({name: images.damaged for name, images in sets.items()}),
    }
    header["checksum"] = checksum(header, tensors)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, header)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def recall(file: Path, name: str) -> Data | None:
    """The data in a file, under this name; None where there is no such file or it is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata()
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        if header.pop("checksum") != checksum(header, tensors):
            return None
        sets: dict[str, Any] = {  # of Images
            own: Images(tensors[f"{own}.pixels"], tensors[f"{own}.labels"], tuple(map(tuple, lost)))
            for own, lost in json.loads(header["damaged"]).items()
        }
        classes, notices = (tuple(json.loads(header[key])) for key in ("classes", "notices"))
        return Data(name, header["fingerprint"], classes, **sets, notices=notices)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None  # it is only a copy, and is made again


def checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Over everything in the file, since a wrong pixel or class would go unnoticed."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
