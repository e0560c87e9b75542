"""Builds an ONNX graph node by node, and opens a session of it in ONNX Runtime."""

# torch.onnx.export takes seconds (6.5 s for ResNet-50 on two cores) where this takes milliseconds,
# it needs onnxscript, and its graph depends on the version of torch.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

OPSET, IR_VERSION = 18, 8  # of 2022: what reads ONNX today reads these
FLOAT, UINT8, INT64, DOUBLE = 1, 2, 7, 11  # numbers of ONNX's data types
LARGE = 1024  # bytes of a constant that an external model does not hold
LAST = 2**31 - 1  # beyond the end of any dimension
MISSING = "is not installed; pip install 'residual-learning[deploy]'"

Tensors = Mapping[str, tuple[int, Sequence[int | str]]]  # data type and shape by name


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. A constant operand is float64, int64, or of its numpy type."""

    graph: "Graph"
    name: str

    def __add__(self, other: "Value | ArrayLike") -> "Value":
        return self.graph("Add", self, other)

    def __sub__(self, other: "Value | ArrayLike") -> "Value":
        return self.graph("Sub", self, other)

    def __rsub__(self, other: ArrayLike) -> "Value":
        return self.graph("Sub", other, self)

    def __mul__(self, other: "Value | ArrayLike") -> "Value":
        return self.graph("Mul", self, other)

    def __truediv__(self, other: "Value | ArrayLike") -> "Value":
        """A quotient; of integers without the remainder."""
        return self.graph("Div", self, other)

    def __rtruediv__(self, other: ArrayLike) -> "Value":
        return self.graph("Div", other, self)

    def __getitem__(self, slices: tuple[slice, ...]) -> "Value":
        """A slice as of an array, with constant ends."""
        cut = {axis: part for axis, part in enumerate(slices) if part != slice(None)}
        starts, steps = [s.start or 0 for s in cut.values()], [s.step or 1 for s in cut.values()]
        ends = [LAST if s.stop is None else s.stop for s in cut.values()]
        return self.graph("Slice", self, starts, ends, list(cut), steps)

    def to(self, data_type: int) -> "Value":
        return self.graph("Cast", self, to=data_type)

    def shape(self, start: int, end: int | None = None) -> "Value":
        """A part of the shape, int64 (end - start,)."""
        bounds = {"start": start} if end is None else {"start": start, "end": end}
        return self.graph("Shape", self, **bounds)


class Graph:
    """Nodes and constants, in the order of their calls."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []  # of type onnx.NodeProto
        self.constants: dict[str, NDArray[Any]] = {}

    def __call__(self, kind: str, *inputs: Value | ArrayLike, **attributes: Any) -> Value:
        """The output of a new node."""
        return self.split(kind, 1, *inputs, **attributes)[0]

    def split(
        self, kind: str, n: int, *inputs: Value | ArrayLike, **attributes: Any
    ) -> list[Value]:
        """The n outputs of a new node."""
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        names = [name] if n == 1 else [f"{name}.{i}" for i in range(n)]
        operands = [self.value(operand).name for operand in inputs]
        self.nodes.append(helper.make_node(kind, operands, names, name=name, **attributes))
        return [Value(self, name) for name in names]

    def output(self, name: str) -> None:
        """Name the output of the last node, as an output of the model."""
        self.nodes[-1].output[0] = name

    def value(self, value: Value | ArrayLike, name: str = "") -> Value:
        """A value as it is, or a constant under this or a new name."""
        if isinstance(value, Value):
            return value
        name = name or f"constant_{len(self.constants)}"
        array = np.asarray(value, order="C")
        integers = isinstance(value, int | list | tuple) and array.dtype.kind == "i"
        self.constants[name] = array.astype(np.int64) if integers else array
        return Value(self, name)

    @property
    def large(self) -> dict[str, NDArray[Any]]:
        """The constants that an external model does not hold."""
        return {name: array for name, array in self.constants.items() if array.nbytes >= LARGE}

    def serialize(
        self,
        inputs: Tensors,
        outputs: Tensors,
        metadata: Mapping[str, str] | None = None,
        external: bool = False,
    ) -> bytes:
        """The model as bytes, checked by ONNX.

        An external model only names its large constants, which `open_session` takes from memory,
        and is not checked.
        """
        import onnx
        from onnx import helper, numpy_helper

        first, last = (
            [helper.make_tensor_value_info(name, *kind) for name, kind in tensors.items()]
            for tensors in (inputs, outputs)
        )
        constants = [
            external_tensor(name, array)
            if external and array.nbytes >= LARGE
            else numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
        ]
        model = helper.make_model(
            helper.make_graph(self.nodes, "residual", first, last, constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="residual",
        )
        helper.set_model_props(model, dict(metadata or {}))
        if not external:
            onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def external_tensor(name: str, array: NDArray[Any]) -> Any:
    """A constant whose numbers are in a file of its name, not in the model."""
    from onnx import TensorProto, helper

    data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=data_type, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor


def installed() -> bool:
    """Whether ONNX and ONNX Runtime, the extra `deploy`, can be imported."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def open_session(model: bytes, large: Mapping[str, NDArray[Any]], threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; `large` has an external model's constants."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # As fast, with 98 MB instead of 325 MB beside the weights for 16 pictures and ResNet-50.
    options.enable_mem_pattern = False
    if large:  # copied when needed; the caller may free them
        files = [array.reshape(-1).view(np.uint8) for array in large.values()]
        sizes = [len(file) for file in files]
        options.add_external_initializers_from_files_in_memory(list(large), files, sizes)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
