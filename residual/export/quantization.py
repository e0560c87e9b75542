"""Quantizes an ONNX model to eight bits, and compares it with the float32 model."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numpy.typing import NDArray

from residual.data.datasets import Progress
from residual.export.graph import open_session
from residual.storage import json_text, write_atomic

LAYERS = ("Conv", "Gemm")
# Quantized where all inputs are, so that a residual block stays in 8 bits from end to end.
BLOCK_NODES = (
    "Relu",
    "Add",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Pad",
    "Concat",
    "Flatten",
)
# The last layers of the RPN stay in float32: their outputs are scores and boxes, not features.
FLOAT_WEIGHTS = {"proposing.score.weight", "proposing.shift.weight"}
# What ONNX Runtime looks for before it warns of a model without inferred shapes.
SHAPES_INFERRED = {"onnx.quant.pre_process": "onnxruntime.quant"}

Array = NDArray[Any]
Answers = Sequence[tuple[list[Array], Any]]  # outputs of a model, and the ground truth


@dataclass(frozen=True)
class Pictures:
    """Pictures that a model is calibrated on, and others that two models are compared on."""

    data: str  # the name
    fingerprint: str
    split: str  # of the comparison: val, or train without the calibration's pictures
    calibrated: int  # pictures
    evaluated: int
    calibration: Callable[[], Iterator[Array]]  # inputs of the model
    evaluation: Callable[[], Iterator[tuple[Array, Any]]]  # inputs, ground truth
    measure: str  # error_top1, or a measure of average precision: AP50-area, AP[.5:.95]
    percent: Callable[[Answers], float]  # the measure

    @property
    def kind(self) -> str:
        return "ap" if self.measure.startswith("AP") else "error"


def write_int8(
    model: bytes,
    pictures: Pictures,
    out: Path,
    max_drop: float,
    threads: int,
    counting: Callable[[str], AbstractContextManager[Progress]],
) -> dict[str, Any]:
    """Write an exported model with weights and activations of eight bits -> the comparison.
    `counting` shows the progress of what it is called with.

    Raises ValueError, and writes nothing, if the error rises, or average precision falls, by more
    than `max_drop` points.
    """
    with counting("calibrating") as progress:
        quantized = quantize(model, counted(pictures, progress))
    with counting("comparing") as progress:
        row = compare({"float32": model, "int8": quantized}, pictures, threads, progress)
    percents = f"{pictures.kind}_float32", f"{pictures.kind}_int8"
    before, after = (row[key] for key in percents)
    drop = before - after if pictures.kind == "ap" else after - before
    if not drop <= max_drop:
        name = "average precision falls" if pictures.kind == "ap" else "error rises"
        raise ValueError(
            f"nothing is written: in eight bits the {name} from {before:.2f} % to {after:.2f} % on "
            f"{row['evaluation']['pictures']:,} pictures of {pictures.data} ({pictures.split}); "
            f"{max_drop:g} points are allowed"
        )
    kept = {key: row[key] for key in ("precision", "calibration", "evaluation", *percents)}
    content = with_metadata(quantized, model, kept)
    write_atomic(out, content)
    return row | {"bytes_int8": len(content)}


def counted(pictures: Pictures, progress: Progress) -> Iterator[Array]:
    """The batches of the calibration, with progress."""
    done = 0
    for batch in pictures.calibration():
        yield batch
        done += len(batch)
        progress(done, pictures.calibrated)


def quantize(model: bytes, batches: Iterator[Array]) -> bytes:
    """The model with its layers, and what lies between them, in eight bits; without metadata."""
    # Choice: weights are symmetric int8 of each output channel, activations uint8 within the
    # minimum and maximum of the calibration. Weights have 7 bits: processors with AVX2 or AVX-512
    # and without VNNI add pairs of products in 16 bits, where 8 bits overflow. With 8 bits,
    # ResNet-20 was wrong on 57 of 500 pictures with VNNI and on 77 with AVX2 (in QEMU); with 7 bits
    # on 58, with the same probabilities. Percentiles, entropy, and a first or last layer in float32
    # changed the error of ResNet-20 by less than its noise.
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    loaded = onnx.load_from_string(model)
    (name,) = (value.name for value in loaded.graph.input)
    del loaded.metadata_props[:]
    onnx.helper.set_model_props(loaded, SHAPES_INFERRED)
    feeds = [{name: batch} for batch in islice(batches, 1)]
    if not feeds:
        raise ValueError("no picture of the calibration can be read")
    inputs = chain(feeds, ({name: batch} for batch in batches))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            loaded,
            file,
            SimpleNamespace(get_next=lambda: next(inputs, None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, *BLOCK_NODES],
            nodes_to_quantize=list(quantized_nodes(loaded.graph)),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return file.read_bytes()


def quantized_nodes(graph: Any) -> Iterator[str]:
    """The names of the nodes that are quantized: layers, and nodes between quantized ones."""
    constants = {tensor.name for tensor in graph.initializer}
    outputs = set[str]()
    for node in graph.node:
        between = node.op_type in BLOCK_NODES and outputs.issuperset(set(node.input) - constants)
        if between or (node.op_type in LAYERS and FLOAT_WEIGHTS.isdisjoint(node.input)):
            yield node.name
            if node.op_type != "Gemm":  # whose output is float32: class scores, or a box
                outputs.update(node.output)


def compare(
    models: dict[str, bytes], pictures: Pictures, threads: int, progress: Progress
) -> dict[str, Any]:
    """Evaluate models by ONNX Runtime on the same pictures, in turn -> for each its error or
    average precision in percent, its speed and its size."""
    sessions = {name: open_session(model, {}, threads) for name, model in models.items()}
    answers: dict[str, list[tuple[list[Array], Any]]] = {name: [] for name in models}
    seconds, count = dict.fromkeys(models, 0.0), 0
    for batch, truth in pictures.evaluation():
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: batch}
            start = time.perf_counter()
            outputs = session.run(None, feed)
            seconds[name] += time.perf_counter() - start
            answers[name].append((outputs, truth))
        count += len(batch)
        progress(count, pictures.evaluated)
    if not count:
        raise ValueError(f"no picture of {pictures.data} ({pictures.split}) can be read")
    measured = {f"{pictures.kind}_{name}": pictures.percent(answers[name]) for name in models}
    speeds = {f"images_per_second_{name}": round(count / seconds[name], 1) for name in models}
    sizes = {f"bytes_{name}": len(model) for name, model in models.items()}
    data = {"data": pictures.data, "fingerprint": pictures.fingerprint}
    return {
        "precision": "int8",
        "calibration": {**data, "pictures": pictures.calibrated},
        "evaluation": {
            **{"data": pictures.data, "split": pictures.split, "pictures": count},
            "measure": pictures.measure,
        },
        **measured,
        **speeds,
        **sizes,
    }


def with_metadata(quantized: bytes, model: bytes, values: dict[str, Any]) -> bytes:
    """The quantized model with the metadata of the exported one, and more values as JSON."""
    import onnx

    loaded, exported = onnx.load_from_string(quantized), onnx.load_from_string(model)
    entries = {entry.key: entry.value for entry in exported.metadata_props}
    entries |= {key: json_text(value) for key, value in values.items()}
    del loaded.metadata_props[:]
    onnx.helper.set_model_props(loaded, entries)
    loaded.producer_name = exported.producer_name
    onnx.checker.check_model(loaded)
    return bytes(loaded.SerializeToString(deterministic=True))
