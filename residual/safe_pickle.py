"""The one reader of foreign pickles: arrays, tensors and plain values; no code in them runs."""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch


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

    def _dtype(self, code: str | bytes, *_: Any) -> np.dtype[Any]:
        return np.dtype(code if isinstance(code, str) else code.decode(), False, True)

    def _array(self, *_: Any) -> np.ndarray[Any, Any]:
        """An empty array, which its state fills: numpy compares its size with its bytes."""
        return np.empty(0, "b")

    def _from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
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

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        """A view into a storage. Raises pickle.UnpicklingError where it would lie outside of it,
        for torch would make the storage larger."""
        raw, dtype = storage._untyped_storage, storage.dtype
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)  # more than there are where several would lie in one place
        held = raw.nbytes() // dtype.itemsize
        if min((offset, *size, *stride)) < 0 or (count and max(count, last + 1) > held):
            raise pickle.UnpicklingError("a tensor does not lie in its storage")
        return torch.empty(0, dtype=dtype).set_(raw, offset, size, stride)

    def _parameter(self, tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        return tensor

    def _with_attributes(self, rebuild: Any, _: Any, arguments: Any, *__: Any) -> torch.Tensor:
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


def load(raw: bytes, encoding: str) -> Any:
    """What a pickle holds, with the text of Python 2 in this encoding ("bytes" keeps it as it is).

    Raises pickle.UnpicklingError where it would run code, and for damage whatever comes of it.
    """
    return ArrayUnpickler(io.BytesIO(raw), encoding=encoding).load()


def load_torch(path: Path) -> Any:
    """What torch.save wrote, in either of its formats, with inert objects in place of others.

    Raises pickle.UnpicklingError for a program of torch.jit or for an archive that is larger than
    its file, and for damage whatever comes of it.
    """
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
