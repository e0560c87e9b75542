"""Files that are whole or absent: a temporary name, a flush to disk and a rename."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

FORMAT = 1  # of runs, checkpoints and results


class Newer(ValueError):
    """A whole file that a newer version wrote."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there. Raises OSError, naming the file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = error.strerror or "the write failed"
        if not path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: no folder {path.parent}") from error
        raise OSError(f"cannot write {path}: {reason}; what was there before is whole") from error
    if os.name == "posix":  # the rename itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON of ours. Raises ValueError where it is damaged or of a newer format."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if isinstance(value, dict):
        check_format(path, value.get("format", FORMAT))
    return value


def check_format(path: Path, found: Any) -> None:
    """Raises Newer where a file was written by a newer version."""
    if not isinstance(found, int) or found > FORMAT:
        raise Newer(
            f"{path} has format {found}; this version of residual reads up to {FORMAT}: update it"
        )


def digest(file: Path, algorithm: str) -> str:
    """A file's checksum, in hexadecimal. It is against accidents, where the algorithm is md5."""
    with file.open("rb") as opened:
        new = hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return new.hexdigest()
