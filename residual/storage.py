"""Files: written whole or not at all, JSON, checksums, names and lists of names, safe pickles."""

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

DEFAULT_ROOT = Path.home() / ".cache" / "residual"  # of data sets, caches and public weights
FORMAT = 1  # of runs, checkpoints and results
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks


class NewerFormat(ValueError):
    """The file is whole and was written by a newer version."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there. Raises OSError, naming the file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with _open_partial(partial) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if os.name != "posix":  # Windows does not rename open files
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
    if os.name == "posix":  # the rename reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open_partial(partial: Path) -> BinaryIO:
    """A temporary file, empty and locked against other processes until it is closed."""
    while True:
        file = partial.open("ab")
        kernel_lock(file.fileno(), wait=True)
        if is_same_file(file.fileno(), partial):  # nobody renamed it after it was opened
            if os.fstat(file.fileno()).st_size:
                file.truncate(0)
            return file
        file.close()


def json_text(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """A value as standard JSON. Raises ValueError, naming the place, for a number that is not
    finite."""
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError as error:
        for place, number in _numbers(value, ""):
            if not math.isfinite(number):
                raise ValueError(f"{place or 'a number'} is {number}, which is no JSON") from error
        raise


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """All floats in lists and dictionaries, each with its place, such as curve.3.loss."""
    if isinstance(value, float):
        yield place, value
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from _numbers(part, f"{place}.{key}" if place else str(key))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_atomic(path, (json_text(value, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def damage_errors(path: object) -> Iterator[None]:
    """Turn whatever the content of a file makes its reader raise into a ValueError that names the
    file."""
    try:
        yield
    except NewerFormat:
        raise
    except ValueError as error:
        if str(path) in str(error):
            raise
        is_decoding = isinstance(error, UnicodeError | json.JSONDecodeError)
        raise ValueError(f"{path}{' is damaged' if is_decoding else ''}: {error}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, Error) as error:
        text = f"something in it has no {error}" if isinstance(error, KeyError) else str(error)
        lines = text.splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is damaged: {lines[0]}") from error


def read_json(path: Path) -> Any:
    """Read JSON. Raises ValueError if it is damaged or of a newer format."""
    with damage_errors(path):
        value = json.loads(path.read_bytes())
    if isinstance(value, dict):
        check_format(path, value.get("format", FORMAT))
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError if the file holds another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}, and no names")
    return value


def check_format(path: object, version: Any) -> None:
    """Raises NewerFormat for the file format of a newer version."""
    if not isinstance(version, int) or version > FORMAT:
        raise NewerFormat(
            f"{path} has format {version}; this version of residual reads up to {FORMAT}: update it"
        )


def file_digest(file: Path, algorithm: str) -> str:
    """The checksum of a file, in hexadecimal. MD5 guards against accidents only."""
    with file.open("rb") as opened:
        new = hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return new.hexdigest()


def encode_name(name: str) -> bytes:
    """The bytes of a file name, which need not be UTF-8 on the disk."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """The inverse of `encode_name`."""
    return name.decode("utf-8", "surrogateescape")


def readable_name(name: str) -> str:
    """A name in valid Unicode: bytes that are not UTF-8 become escapes such as \\xfc."""
    return encode_name(name).decode("utf-8", "backslashreplace")


def display_name(name: PathLike[str] | str) -> str:
    """A name for a message; the `repr` of one with unprintable characters or outer spaces."""
    text = str(name)
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def summarize(names: list[str], limit: int = 3) -> str:
    """The number of names and the first of them: `(12): ant, bee, cat and 9 more`."""
    rest = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"({len(names):,}): {', '.join(map(display_name, names[:limit]))}{rest}"


def decode_text(raw: bytes) -> str:
    """A text in UTF-8 or UTF-16, without its byte order mark."""
    if raw.startswith(UTF16):
        return raw.decode("utf-16", "replace")
    return decode_name(raw.removeprefix(b"\xef\xbb\xbf"))


def parse_list(raw: bytes) -> Iterator[str]:
    """The entries of a list of names, in order, without empty ones.

    Lines end with LF, CRLF or CR, or entries end with NUL (`find -print0`). White space around a
    line and quotes around an entry are removed; entries that end with NUL keep their spaces.
    """
    text = decode_text(raw)
    # Not splitlines(), which also splits at a form feed or a Unicode line separator in a name.
    for entry in text.split("\0") if "\0" in text else re.split(r"\r\n|\r|\n", text):
        stripped = entry.strip() if "\0" not in text else entry.strip("\r\n")
        if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
            stripped = stripped[1:-1]
        if stripped:
            yield stripped


def iterate_list(stream: IO[bytes]) -> Iterator[str]:
    """The entries of a list that is still being written; lines are yielded as they come."""
    # The first entry that ends with NUL may hold line breaks.
    whole = b"\0" in getattr(stream, "peek", bytes)()
    for line in stream:
        if whole or line.startswith(UTF16) or b"\0" in line:
            yield from parse_list(line + stream.read())
        else:
            yield from parse_list(line)


def read_list(file: Path) -> Iterator[str]:
    """The entries of a list in a file. Raises OSError."""
    yield from parse_list(file.read_bytes())


# The Unpickler in Python reads the same as the one in C. The latter allocates memory for any memo
# index in a pickle, and ten bytes can name a large one.
class ArrayUnpickler(pickle._Unpickler):
    """Reads numpy arrays and plain values, and no other objects.

    All functions that a pickle may call are methods of this class and change nothing in numpy.
    """

    def load_bytearray8(self) -> None:
        """Read at most the bytes that exist: pickle's method allocates the stated size first."""
        reader: Any = self
        reader.append(bytearray(reader.read(int.from_bytes(reader.read(8), "little"))))

    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: cast(Any, load_bytearray8)}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): None,  # an argument that `_array` ignores
            ("numpy", "dtype"): self._dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),  # bytes of Python 2
        }
        for core in ("numpy.core", "numpy._core"):
            # What an array's pickle calls: up to protocol 4, and from protocol 5 on.
            self.allowed[f"{core}.multiarray", "_reconstruct"] = self._array
            self.allowed[f"{core}.numeric", "_frombuffer"] = self._from_buffer

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        return self.replace_class(module, name)

    def replace_class(self, module: str, name: str) -> Any:
        """The substitute for any other class. Raises pickle.UnpicklingError."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")

    def _dtype(self, code: str | bytes, *_: Any) -> "np.dtype[Any]":
        import numpy as np

        return np.dtype(code if isinstance(code, str) else code.decode(), False, True)

    def _array(self, *_: Any) -> "np.ndarray[Any, Any]":
        """An empty array. numpy compares its size with the bytes that it is filled with."""
        import numpy as np

        return np.empty(0, "b")

    def _from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "np.ndarray[Any, Any]":
        import numpy as np

        return np.frombuffer(raw, dtype).reshape(shape, order=order)


class TensorUnpickler(ArrayUnpickler):
    """Reads what torch.save wrote: tensors, arrays and plain values. An object of any other class
    becomes an inert one without content."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for rebuild in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            self.allowed["torch._utils", rebuild] = self._tensor
        for rebuild in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            self.allowed["torch._utils", rebuild] = lambda tensor, *_: tensor
        self.allowed["torch._tensor", "_rebuild_from_type_v2"] = self._with_attributes
        # Each file gets another class, which no other file can have changed.
        self.inert = type("Inert", (Inert,), {})

    def replace_class(self, module: str, name: str) -> Any:
        return self.inert

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> "torch.Tensor":
        """A view of a storage. Raises pickle.UnpicklingError for one beyond the storage, which
        torch would enlarge."""
        import torch

        raw, dtype = storage._untyped_storage, storage.dtype
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)  # exceeds the storage if several elements share a place
        capacity = raw.nbytes() // dtype.itemsize
        if min((offset, *size, *stride)) < 0 or (count and max(count, last + 1) > capacity):
            raise pickle.UnpicklingError("a tensor does not lie in its storage")
        return torch.empty(0, dtype=dtype).set_(raw, offset, size, stride)

    def _with_attributes(self, rebuild: Any, _: Any, arguments: Any, *__: Any) -> "torch.Tensor":
        """A tensor that had attributes, without them."""
        if rebuild != self._tensor:
            raise pickle.UnpicklingError("a tensor is made of something else")
        return self._tensor(*arguments)


class Inert:
    """Replaces an object whose class is not read. It ignores all state."""

    dump_patches = False  # an attribute that torch reads of network classes

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...
    def add(self, value: Any) -> None: ...


def load_pickle(raw: bytes, encoding: str) -> Any:
    """The content of a pickle. `encoding` decodes the text of Python 2; "bytes" keeps it.

    Raises pickle.UnpicklingError if it would run code, and any exception if it is damaged.
    """
    return ArrayUnpickler(io.BytesIO(raw), encoding=encoding).load()


def load_torch(path: Path) -> Any:
    """The content of a file by torch.save, in either format, with inert objects for other classes.

    Raises pickle.UnpicklingError for a torch.jit program or a compressed archive, and any exception
    if the file is damaged.
    """
    import torch

    file: Path | io.BytesIO = path
    with path.open("rb") as opened:
        is_archive = opened.read(4) == b"PK\x03\x04"  # torch's own test
    if is_archive:
        # torch's reader: Python's can find other entries in the same bytes.
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
        load=lambda file, **options: TensorUnpickler(file, **options).load(),
    )
    return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)
