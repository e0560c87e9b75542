"""Files that are whole or absent: a temporary name, a flush to disk and a rename."""

import hashlib
import io
import json
import math
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from csv import Error
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from residual.locks import is_same_file, kernel_lock

if TYPE_CHECKING:
    import numpy as np
    import torch

FORMAT = 1  # of runs, checkpoints and results


class NewerFormat(ValueError):
    """A whole file that a newer version wrote."""


def write_atomic(path: Path, content: bytes) -> None:
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
        kernel_lock(file.fileno(), wait=True)
        if is_same_file(file.fileno(), partial):  # and nobody has renamed it since it was opened
            if os.fstat(file.fileno()).st_size:
                file.truncate(0)
            return file
        file.close()


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    write_atomic(path, (json_text(value, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def damage_errors(path: object) -> Iterator[None]:
    """Around the reading of a file: whatever its content makes it stumble on becomes a ValueError
    that names the file."""
    try:
        yield
    except NewerFormat:
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
    with damage_errors(path):
        value = json.loads(path.read_bytes())
    if isinstance(value, dict):
        check_format(path, value.get("format", FORMAT))
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The same, of names and values. Raises ValueError where it is something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}, and no names")
    return value


def check_format(path: Path, found: Any) -> None:
    """Raises Newer where a file was written by a newer version."""
    if not isinstance(found, int) or found > FORMAT:
        raise NewerFormat(
            f"{path} has format {found}; this version of residual reads up to {FORMAT}: update it"
        )


def file_digest(file: Path, algorithm: str) -> str:
    """A file's checksum, in hexadecimal. It is against accidents, where the algorithm is md5."""
    with file.open("rb") as opened:
        new = hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return new.hexdigest()


UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks


def encode_name(name: str) -> bytes:
    """The bytes of a name, which need not be UTF-8 on the disk."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """The inverse of `encoded`."""
    return name.decode("utf-8", "surrogateescape")


def readable_name(name: str) -> str:
    """A name as a class is called: every byte that is no UTF-8 as an escape, such as \\xfc."""
    return encode_name(name).decode("utf-8", "backslashreplace")


def display_name(name: PathLike[str] | str) -> str:
    """A name as a message shows it: an odd one by its `repr`, so that every character is seen."""
    text = str(name)
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def summarize(names: list[str], most: int = 3) -> str:
    """How many, and the first of them: `(12): ant, bee, cat and 9 more`."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"({len(names):,}): {', '.join(map(display_name, names[:most]))}{rest}"


def decode_text(raw: bytes) -> str:
    """A text that any program wrote, without its byte order mark, in UTF-8 or UTF-16."""
    if raw.startswith(UTF16):
        return raw.decode("utf-16", "replace")
    return decode_name(raw.removeprefix(b"\xef\xbb\xbf"))


def parse_list(raw: bytes) -> Iterator[str]:
    """The entries of a list of names that any program wrote, in order, without empty ones.

    Lines end with LF, CRLF or CR, or entries with NUL (`find -print0`), and then are taken as they
    are. White space around a line, and quotes around a whole entry, are no part of it.
    """
    text = decode_text(raw)
    # Not splitlines(), for which a name may not hold a form feed or a Unicode line separator.
    for entry in text.split("\0") if "\0" in text else re.split(r"\r\n|\r|\n", text):
        stripped = entry.strip() if "\0" not in text else entry.strip("\r\n")
        if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
            stripped = stripped[1:-1]
        if stripped:
            yield stripped


def iterate_list(stream: IO[bytes]) -> Iterator[str]:
    """The same of a list that is still being written, as far as it comes line by line."""
    for line in stream:
        if line.startswith(UTF16) or b"\0" in line:
            yield from parse_list(line + stream.read())
        else:
            yield from parse_list(line)


def read_list(file: Path) -> Iterator[str]:
    """The entries of a list in a file: see `lines_of`. Raises OSError."""
    yield from parse_list(file.read_bytes())


# Of the Unpickler in Python, which reads the same: the one in C takes memory for any number that a
# pickle gives to a value that it wants to remember, and a pickle of ten bytes can name a large one.
class ArrayUnpickler(pickle._Unpickler):
    """Reads a pickle that builds numpy arrays out of plain values, and no other.

    What a pickle may call are methods of this reader: it can change no function of numpy or torch.
    """

    def bytearray8(self) -> None:
        """Bytes as far as there are any: the usual way first makes room for as many as are told."""
        reader: Any = self
        reader.append(bytearray(reader.read(int.from_bytes(reader.read(8), "little"))))

    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: cast(Any, bytearray8)}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): None,  # which `_array` needs not be told
            ("numpy", "dtype"): self._dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): self._latin1,
        }
        for core in ("numpy.core", "numpy._core"):
            # What the array's own pickle calls: up to protocol 4, and from protocol 5 on.
            self.known[f"{core}.multiarray", "_reconstruct"] = self._array
            self.known[f"{core}.numeric", "_frombuffer"] = self._from_buffer

    def find_class(self, module: str, name: str) -> Any:
        place = module, name
        return self.known[place] if place in self.known else self.other(module, name)

    def other(self, module: str, name: str) -> Any:
        """What stands for anything else. Raises pickle.UnpicklingError."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")

    def _latin1(self, text: str, _: str) -> bytes:
        """How Python 3 spells bytes in an old pickle."""
        return text.encode("latin-1")

    def _dtype(self, code: str | bytes, *_: Any) -> "np.dtype[Any]":
        import numpy as np

        return np.dtype(code if isinstance(code, str) else code.decode(), False, True)

    def _array(self, *_: Any) -> "np.ndarray[Any, Any]":
        """An empty array, which its state fills: numpy compares its size with its bytes."""
        import numpy as np

        return np.empty(0, "b")

    def _from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "np.ndarray[Any, Any]":
        import numpy as np

        return np.frombuffer(raw, dtype).reshape(shape, order=order)


class TensorUnpickler(ArrayUnpickler):
    """Reads what torch.save wrote: tensors, arrays and plain values. An object of any other class
    becomes an inert one, which has no content and can do nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for rebuild in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            self.known["torch._utils", rebuild] = self._tensor
        for rebuild in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            self.known["torch._utils", rebuild] = self._parameter
        self.known["torch._tensor", "_rebuild_from_type_v2"] = self._with_attributes
        # A class of its own for each file, which no other file can have changed.
        self.inert = type("Inert", (Inert,), {})

    def other(self, module: str, name: str) -> Any:
        return self.inert

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> "torch.Tensor":
        """A view into a storage. Raises pickle.UnpicklingError where it would lie outside of it,
        for torch would make the storage larger."""
        import torch

        raw, dtype = storage._untyped_storage, storage.dtype
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)  # more than there are where several would lie in one place
        held = raw.nbytes() // dtype.itemsize
        if min((offset, *size, *stride)) < 0 or (count and max(count, last + 1) > held):
            raise pickle.UnpicklingError("a tensor does not lie in its storage")
        return torch.empty(0, dtype=dtype).set_(raw, offset, size, stride)

    def _parameter(self, tensor: "torch.Tensor", *_: Any) -> "torch.Tensor":
        return tensor

    def _with_attributes(self, rebuild: Any, _: Any, arguments: Any, *__: Any) -> "torch.Tensor":
        """A tensor that had attributes, without them."""
        if rebuild != self._tensor:
            raise pickle.UnpicklingError("a tensor is made of something else")
        return self._tensor(*arguments)


class Inert:
    """Stands for an object whose class is not read, whatever it is made of."""

    dump_patches = False  # torch asks classes of networks whether it may write a file

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...
    def add(self, value: Any) -> None: ...


def load_pickle(raw: bytes, encoding: str) -> Any:
    """What a pickle holds, with the text of Python 2 in this encoding ("bytes" keeps it as it is).

    Raises pickle.UnpicklingError where it would run code, and for damage whatever comes of it.
    """
    return ArrayUnpickler(io.BytesIO(raw), encoding=encoding).load()


def load_torch(path: Path) -> Any:
    """What torch.save wrote, in either of its formats, with inert objects in place of others.

    Raises pickle.UnpicklingError for a program of torch.jit or for an archive that is larger than
    its file, and for damage whatever comes of it.
    """
    import torch

    file: Path | io.BytesIO = path
    with path.open("rb") as opened:
        is_archive = opened.read(4) == b"PK\x03\x04"  # as torch decides it
    if is_archive:
        # By torch's own reader: Python's can find other entries in the same bytes.
        if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise pickle.UnpicklingError("it is a program of torch.jit")
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise pickle.UnpicklingError("it is compressed, which torch.save does not do")
    else:
        # From memory, since torch unpacks files of another, still older kind onto the disk.
        file = io.BytesIO(path.read_bytes())
    reader = SimpleNamespace(
        __name__=__name__,
        Unpickler=TensorUnpickler,
        load=lambda file, **how: TensorUnpickler(file, **how).load(),
    )
    return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)
