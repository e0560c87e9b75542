"""Files that are whole or absent: a temporary name, a flush to disk and a rename."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from csv import Error
from pathlib import Path
from typing import Any, BinaryIO

from residual.locks import flocked, same_file

FORMAT = 1  # of runs, checkpoints and results


class Newer(ValueError):
    """A whole file that a newer version wrote."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there. Raises OSError, naming the file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with _emptied(partial) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if os.name != "posix":  # elsewhere an open file keeps its name
                    file.close()
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
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


def json_text(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON as every program reads it: whatever is written or printed as JSON is made here.

    Raises ValueError, naming the place, for a number that is not finite, which JSON does not have.
    """
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError as error:
        for place, number in _numbers(value, ""):
            if not math.isfinite(number):
                raise ValueError(f"{place or 'a number'} is {number}, which is no JSON") from error
        raise


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """All numbers in lists and dictionaries, each with its place, like curve.3.loss."""
    if isinstance(value, float):
        yield place, value
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from _numbers(part, f"{place}.{key}" if place else str(key))


def _emptied(partial: Path) -> BinaryIO:
    """A temporary file, open and empty, that no other process writes to before it is closed."""
    while True:
        file = partial.open("ab")
        flocked(file.fileno(), wait=True)
        if same_file(file.fileno(), partial):  # and nobody has renamed it since it was opened
            if os.fstat(file.fileno()).st_size:
                file.truncate(0)
            return file
        file.close()


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    write_whole(path, (json_text(value, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Around the reading of a file: whatever its content makes it stumble on becomes a ValueError
    that names the file."""
    try:
        yield
    except Newer:
        raise
    except ValueError as error:
        if str(path) in str(error):
            raise
        decoding = isinstance(error, UnicodeError | json.JSONDecodeError)
        raise ValueError(f"{path}{' is damaged' if decoding else ''}: {error}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, Error) as error:
        lacks = f"something in it has no {error}" if isinstance(error, KeyError) else str(error)
        lines = lacks.splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is damaged: {lines[0]}") from error


def read_json(path: Path) -> Any:
    """Read JSON of ours. Raises ValueError where it is damaged or of a newer format."""
    with reading(path):
        value = json.loads(path.read_bytes())
    if isinstance(value, dict):
        check_format(path, value.get("format", FORMAT))
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The same, of names and values. Raises ValueError where it is something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}, and no names")
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
