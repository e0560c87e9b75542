"""Exports a classifier as an ONNX model or a file of weights; a comparison comes first."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import decode
from residual.device import check_finite
from residual.export.graph import (
    FLOAT,
    MISSING,
    UINT8,
    Graph,
    Tensors,
    Value,
    installed,
    open_session,
)
from residual.export.layers import network
from residual.export.preprocess import preprocess
from residual.models.baselines.vgg import Windows
from residual.models.blocks import bottleneck
from residual.models.registry import model_spec
from residual.models.resnet import ROWS
from residual.runs.load import Trained
from residual.storage import FORMAT, json_text, write_atomic
from residual.training.checkpoint import weights_sha256
from residual.weights.layouts import LAYOUTS

PICTURE, INPUT, OUTPUT = "image", "input", "probabilities"
TOLERANCE = 1e-4  # of a probability
BATCHES = (1, 3, 17)
Row = dict[str, Any]  # a row of `parity` in `export --json`, or some of the metadata


def write_onnx(trained: Trained, out: Path, inside: bool) -> list[Row]:
    """Write an ONNX model of dynamic batch and size, with labels and preprocessing in its metadata.

    Raises ValueError, and writes nothing, if its probabilities differ from the network's, if a
    weight is not finite, or if ONNX and ONNX Runtime are not installed.
    """
    model, rows = checked_model(trained, inside)
    write_atomic(out, model)
    return rows


def checked_model(trained: Trained, inside: bool) -> tuple[bytes, list[Row]]:
    """The ONNX model, and its comparison with the network. Raises as `write_onnx`."""
    check_exportable(trained)
    model = onnx_model(trained, inside)
    return model, list(compare(trained, inside, model))


def check_exportable(trained: Trained) -> None:
    """Raises ValueError if a weight is not finite, or without ONNX and ONNX Runtime."""
    check_finite(trained.net.state_dict(), "nothing is written")
    if not installed():
        raise ValueError(f"ONNX {MISSING}")


def onnx_model(trained: Trained, inside: bool) -> bytes:
    """An ONNX model with outputs `probabilities` (batch, classes).

    With the preprocessing inside, its input is `image` (batch, height, width, 3) uint8, in RGB, of
    any size; else `input` (batch, 3, height, width) float32, preprocessed, of the network's own
    size, or of any from that up if the network allows it.
    """
    graph = Graph()
    if inside:
        inputs: Tensors = {PICTURE: (UINT8, ["batch", "height", "width", 3])}
        images = preprocess(graph, Value(graph, PICTURE), trained.preprocessing)
    else:
        sides = trained.preprocessing.size if has_fixed_size(trained) else ("height", "width")
        inputs = {INPUT: (FLOAT, ["batch", 3, *sides])}
        images = Value(graph, INPUT)
    outputs = add_network(graph, trained, images)
    return graph.serialize(inputs, outputs, classifier_metadata(trained, inside))


def session_model(trained: Trained) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """An external ONNX model for inputs of the network's own size, and its weights."""
    # With known sizes, ONNX Runtime adds a shortcut in place: 2 % faster.
    graph = Graph()
    inputs: Tensors = {INPUT: (FLOAT, ["batch", 3, *trained.preprocessing.size])}
    outputs = add_network(graph, trained, Value(graph, INPUT))
    return graph.serialize(inputs, outputs, external=True), graph.large


def add_network(graph: Graph, trained: Trained, images: Value) -> Tensors:
    """Add the network's nodes -> the model's output."""
    graph("Softmax", network(graph, trained.net, images), axis=1)
    graph.output(OUTPUT)
    return {OUTPUT: (FLOAT, ["batch", trained.num_classes])}


def has_fixed_size(trained: Trained) -> bool:
    """Whether inputs must have the network's own size: for whitening, for a layer of one size, or
    because the model has one window of several that slide over a larger picture."""
    windows = any(isinstance(layer, Windows) for layer in trained.net.modules())
    if windows or trained.preprocessing.whitening is not None:
        return True
    try:
        with torch.inference_mode():
            for height, width in larger_sizes(trained):
                trained.net(torch.zeros(1, 3, height, width))
    except RuntimeError:
        return True
    return False


def larger_sizes(trained: Trained) -> list[tuple[int, int]]:
    """Two sizes of inputs that are larger than the network's own."""
    side = max(trained.preprocessing.size)
    return [(side * 3 // 2, side), (side, side * 5 // 4)]


def classifier_metadata(trained: Trained, inside: bool) -> dict[str, str]:
    """The metadata of a classifier's model or file of weights."""
    view = trained.preprocessing
    mean_image = view.mean.shape[1:] != (1, 1) and not inside
    size = {"shorter": view.shorter, "size": list(view.size)}  # centre crop of this shorter side
    values = {
        "mean": to_list(view.mean.mean(dim=(1, 2))),
        "mean_image": to_list(view.mean) if mean_image else None,
        "contrast": view.contrast,  # normalised for each picture, before the mean
        "whitening": view.whitening is not None,  # after it, by a matrix of the run
        "std": to_list(view.std.mean(dim=(1, 2))),
    }
    return metadata(trained, {}, inside, size, values)


def metadata(trained: Trained, task: Row, inside: bool, size: Row, values: Row) -> dict[str, str]:
    """The properties of an exported network as JSON, by key."""
    common = {
        "network": trained.network,
        "source": trained.source or f"trained by residual, {trained.step} steps",
        "weights_sha256": weights_sha256(trained.net.state_dict()),
        "labels": list(trained.classes) if trained.classes else None,
        **({"error": trained.error} if trained.error else {}),
    }
    resize = {"interpolation": "bilinear, antialiased", "divisor": 255}
    preprocessing = {"inside": inside, "colours": "RGB", **size, **resize, **values}
    entries = {"format": FORMAT, **task, **common, "preprocessing": preprocessing}
    return {key: json_text(value) for key, value in entries.items()}


def to_list(tensor: Tensor) -> Any:
    """float32 numbers as lists, in their shortest decimal form."""
    return np.array([str(x) for x in tensor.numpy().ravel()], float).reshape(tensor.shape).tolist()


def compare(trained: Trained, inside: bool, model: bytes) -> Iterator[Row]:
    """Compare the model and the network on random pictures in batches of several sizes.

    A row has the largest difference between two probabilities, and the times for one picture.
    Raises ValueError if they differ.
    """
    session = open_session(model, {}, torch.get_num_threads())
    name = session.get_inputs()[0].name
    for pictures, inputs in examples(trained, fit=inside or has_fixed_size(trained)):
        with torch.inference_mode():
            expected, torch_ms = timed(lambda x: trained.net(x).softmax(dim=1), inputs)
        (answer,), onnxruntime_ms = timed(
            lambda x: session.run(None, {name: x}), pictures if inside else inputs.numpy()
        )
        answer = torch.from_numpy(answer)
        distance = check_equal(f"the ONNX model of {trained.network}", answer, expected)
        row = dict(zip(("batch", "height", "width"), pictures.shape, strict=False))
        yield row | {"apart": distance, "torch_ms": torch_ms, "onnxruntime_ms": onnxruntime_ms}


def check_equal(name: str, probabilities: Tensor, expected: Tensor) -> float:
    """The largest difference between two probabilities (N, classes). Raises ValueError unless they
    and the best labels are equal."""
    distance = float((probabilities - expected).abs().max())
    if not distance <= TOLERANCE:  # NaN is not, either
        raise ValueError(
            f"nothing is written: {name} differs from the network by {distance:.2g} in a "
            f"probability; {TOLERANCE:g} is allowed"
        )
    best = expected.gather(1, probabilities.argmax(dim=1, keepdim=True))[:, 0]
    if (expected.amax(dim=1) - best).max() > TOLERANCE / 100:  # else the best two are equally good
        raise ValueError(f"nothing is written: {name} has other labels than the network")
    return distance


def timed(function: Callable[[Any], Any], inputs: Any) -> tuple[Any, float]:
    """The result, and milliseconds for one input: of a second call, unless the first is slow."""
    for _ in range(2):
        start = time.perf_counter()
        result = function(inputs)
        seconds = time.perf_counter() - start
        if seconds > 1:
            break
    return result, 1e3 * seconds / len(inputs)


def examples(trained: Trained, fit: bool) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
    """Batches of pictures (N, H, W, 3) of different sizes, and the inputs that they become.

    Pictures are resized to the network's size or, unless they have to `fit`, only the first batch;
    the others enter the network whole.
    """
    view, rng = trained.preprocessing, np.random.default_rng(0)
    side = view.shorter or max(view.size)
    sizes = [(side * 4 // 3, side * 3 // 2), (side * 3 // 2, side), (side * 2 // 3 + 1, side + 5)]
    if not fit:
        sizes[1:] = larger_sizes(trained)
    for batch, (height, width) in zip(BATCHES, sizes, strict=True):
        coarse = rng.integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
        pictures = [Image.fromarray(array).resize((width, height)) for array in coarse]
        resize = (view.size, view.shorter) if fit or batch == 1 else ()
        inputs = view(torch.stack([decode(picture, *resize) for picture in pictures]))
        yield np.stack([np.asarray(picture) for picture in pictures]), inputs


def write_weights(trained: Trained, out: Path, torchvision: bool = False) -> None:
    """Write the weights under our names, or under torchvision's for the `load_state_dict` of its
    network, with labels and preprocessing in the metadata.

    Raises ValueError for a network that torchvision lacks, and if its network gives other
    probabilities with these weights.
    """
    state = trained.net.state_dict()
    check_finite(state, "nothing is written")
    if torchvision:
        state = torchvision_state(trained)
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    write_atomic(out, safetensors.torch.save(contiguous, classifier_metadata(trained, False)))


def torchvision_state(trained: Trained) -> dict[str, Tensor]:
    """The weights under torchvision's names, compared in its network."""
    from torchvision.models import get_model

    spec, layout = model_spec(trained.network), LAYOUTS[0]
    if spec.family != "imagenet" or spec.option != "B":
        raise ValueError(
            f"torchvision has no {trained.network}; it has resnet18, resnet34, and of 50, 101 and "
            f"152 layers the variant v1.5"
        )
    if spec.variant == "v1" and ROWS[spec.depth][0] is bottleneck:
        raise ValueError(
            f"torchvision's {trained.network} is the variant v1.5, with the stride in the 3x3 "
            f"layer; it would take these weights and compute something else"
        )
    weights = trained.net.state_dict()
    net = get_model(f"resnet{spec.depth}", num_classes=len(weights["fc.bias"])).eval()
    state = {key: weights[str(layout.name(key))] for key in net.state_dict()}
    net.load_state_dict(state, strict=True)
    _, inputs = next(examples(trained, fit=True))
    with torch.inference_mode():
        answer, expected = net(inputs).softmax(dim=1), trained.net(inputs).softmax(dim=1)
    check_equal(f"torchvision's resnet{spec.depth}", answer, expected)
    return state
