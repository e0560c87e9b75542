"""An ONNX graph as it grows."""

# Written node by node, because it takes milliseconds where torch.onnx.export takes seconds (6.5 s
# for ResNet-50 on two cores), needs no onnxscript, and gives the same graph under every torch.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 18, 8  # of 2022: what reads ONNX today reads these
DOUBLE, FLOAT, INT64, UINT8 = (
    TensorProto.DOUBLE,
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.UINT8,
)
LAST = 2**31 - 1  # beyond the end of any side
Tensors = Mapping[str, tuple[int, Sequence[int | str]]]  # type and shape of each, by name


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. A constant beside it is float64, int64, or what numpy says it is."""

    graph: "Graph"
    name: str

    def __add__(self, other: "Value | ArrayLike") -> "Value":
        return self.graph("Add", self, other)

    def __sub__(self, other: "Value | ArrayLike") -> "Value":
        return self.graph("Sub", self, other)

    def __getitem__(self, part: tuple[slice, ...]) -> "Value":
        """A part, as of an array; all ends are known, and of each side that is cut its number."""
        cut = {axis: each for axis, each in enumerate(part) if each != slice(None)}
        starts, stops = [s.start or 0 for s in cut.values()], [s.stop for s in cut.values()]
        steps = [s.step or 1 for s in cut.values()]
        ends = [LAST if stop is None else stop for stop in stops]
        return self.graph("Slice", self, starts, ends, list(cut), steps)

    def __rsub__(self, other: ArrayLike) -> "Value":
        return self.graph("Sub", other, self)

    def __mul__(self, other: "Value | ArrayLike") -> "Value":
        return self.graph("Mul", self, other)

    def __truediv__(self, other: "Value | ArrayLike") -> "Value":
        """Whole numbers are divided without the rest."""
        return self.graph("Div", self, other)

    def __rtruediv__(self, other: ArrayLike) -> "Value":
        return self.graph("Div", other, self)

    def to(self, kind: int) -> "Value":
        return self.graph("Cast", self, to=kind)

    def shape(self, start: int, end: int | None = None) -> "Value":
        """A part of the shape, int64 (end - start,)."""
        upto = {} if end is None else {"end": end}
        return self.graph("Shape", self, start=start, **upto)


class Graph:
    """Nodes and constants, in the order in which they are called for."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def __call__(self, kind: str, *inputs: Value | ArrayLike, **attributes: Any) -> Value:
        """The first output of a new node."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(
        self, kind: str, outputs: int, *inputs: Value | ArrayLike, **attributes: Any
    ) -> list[Value]:
        """All outputs of a new node."""
        name = f"{kind}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        given = [self.value(each).name for each in inputs]
        self.nodes.append(helper.make_node(kind, given, names, name=name, **attributes))
        return [Value(self, each) for each in names]

    def value(self, given: Value | ArrayLike, name: str = "") -> Value:
        """A value itself, or a constant under a name of its own."""
        if isinstance(given, Value):
            return given
        name = name or f"constant_{len(self.constants)}"
        array = np.asarray(given, order="C")
        whole = isinstance(given, int | list | tuple) and array.dtype.kind == "i"
        self.constants[name] = array.astype(np.int64) if whole else array
        return Value(self, name)

    def model(self, given: Tensors, answer: Tensors, apart: bool = False) -> onnx.ModelProto:
        """The whole, with inputs and outputs of these types and shapes.

        Kept apart, large constants are only named: who runs the model has them in memory already,
        and hands over `large`.
        """
        inputs, outputs = (
            [helper.make_tensor_value_info(name, *each) for name, each in side.items()]
            for side in (given, answer)
        )
        constants = [
            only_named(name, array)
            if apart and name in self.large
            else numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
        ]
        return helper.make_model(
            helper.make_graph(self.nodes, "residual", inputs, outputs, constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="residual",
        )

    @property
    def large(self) -> dict[str, NDArray[Any]]:
        """The constants of a kilobyte and more."""
        return {name: array for name, array in self.constants.items() if array.nbytes >= 1024}


def only_named(name: str, array: NDArray[Any]) -> TensorProto:
    """A constant whose numbers are not in the model, but in a file of its name."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    proto = TensorProto(name=name, data_type=kind, dims=array.shape)
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value=name)
    return proto
