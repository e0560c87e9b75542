"""A trained network for elsewhere, checked before it is written."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import center_crop, resize, to_tensor
from residual.device import check_finite
from residual.export.engine import MISSING, installed, session_of
from residual.models.blocks import bottleneck
from residual.models.registry import model_spec
from residual.models.resnet import ROWS
from residual.runs.load import Trained
from residual.storage import FORMAT, json_text, write_atomic
from residual.training.checkpoint import Tensors, weights_sha256
from residual.weights.layouts import LAYOUTS

TOLERANCE = 1e-4  # of a probability
BATCHES = (1, 3, 17)

Pictures = NDArray[np.uint8]  # (N, H, W, 3)


@dataclass(frozen=True)
class Parity:
    """What one batch of the check found: the network beside what is to be written."""

    batch: int
    height: int
    width: int
    apart: float  # the largest difference between two probabilities
    torch_ms: float  # for one picture
    onnxruntime_ms: float


def described(trained: Trained, inside: bool = False) -> dict[str, str]:
    """What a user must know of an exported network, each as JSON."""
    before = trained.preprocessing
    whole = before.mean.shape[1:] != (1, 1) and not inside  # a mean image that is not in the graph
    said = {
        "format": FORMAT,
        "network": trained.network,
        "source": trained.source or f"trained by residual, {trained.step} steps",
        "weights_sha256": weights_sha256(trained.net.state_dict()),
        "labels": list(trained.classes) if trained.classes else None,
        "preprocessing": {
            "inside": inside,
            "colours": "RGB",
            "shorter": before.shorter,  # pixels of the shorter side; then the centre is cut out
            "size": list(before.size),
            "interpolation": "bilinear, antialiased",
            "divisor": 255,
            "mean": short(before.mean.mean(dim=(1, 2))),
            "mean_image": short(before.mean) if whole else None,
            "contrast": before.contrast,  # of each picture normalised by itself, before the mean
            "whitening": before.whitening is not None,  # after it, by a matrix of the run's
            "std": short(before.std.mean(dim=(1, 2))),
        },
    }
    return {key: json_text(value) for key, value in said.items()}


def short(tensor: Tensor) -> Any:
    """float32 numbers as lists, each with the digits that it has."""
    return np.array([str(x) for x in tensor.numpy().ravel()], float).reshape(tensor.shape).tolist()


def to_onnx(trained: Trained, out: Path, inside: bool) -> list[Parity]:
    """Write an ONNX model of dynamic batch and size, with labels and preprocessing in its metadata.

    Raises ValueError, and writes nothing, where its probabilities are not the network's, where a
    weight is not finite, or where ONNX and ONNX Runtime are not installed.
    """
    sound(trained)
    if not installed():
        raise ValueError(f"ONNX {MISSING}")
    from onnx import helper

    from residual.export.model import model

    made = model(trained, inside)
    helper.set_model_props(made, described(trained, inside))
    content = made.SerializeToString()
    found = list(parity(trained, content, inside))
    write_atomic(out, content)
    return found


def sound(trained: Trained) -> None:
    """Raises NotFinite where a weight is not finite."""
    check_finite(trained.net.state_dict(), "nothing is written")


def parity(trained: Trained, content: bytes, inside: bool) -> Iterator[Parity]:
    """The model beside the network, on made-up pictures of several sizes and batches.

    Raises ValueError where they differ.
    """
    from residual.export.model import one_size

    session = session_of(content, {}, torch.get_num_threads())
    name = session.get_inputs()[0].name
    for pictures, inputs in made_up(trained, cut=inside or one_size(trained)):
        given = pictures if inside else inputs.numpy()
        with torch.inference_mode():
            expected, slow = timed(lambda x: trained.net(x).softmax(dim=1), inputs)
        (answer,), fast = timed(lambda x: session.run(None, {name: x}), given)
        found = torch.from_numpy(answer)
        compare(f"the ONNX model of {trained.network}", found, expected)
        apart = float((found - expected).abs().max())
        batch, height, width = pictures.shape[:3]
        yield Parity(batch, height, width, apart, slow, fast)


def compare(what: str, found: Tensor, expected: Tensor) -> None:
    """Raises ValueError unless probabilities (N, classes) and the best labels are the same."""
    apart = float((found - expected).abs().max())
    if not apart <= TOLERANCE:  # nor is a number that is none
        raise ValueError(
            f"nothing is written, for {what} differs from the network by {apart:.2g} in a "
            f"probability; {TOLERANCE:g} is allowed"
        )
    best = expected.gather(1, found.argmax(dim=1, keepdim=True))[:, 0]
    if (expected.amax(dim=1) - best).max() > TOLERANCE / 100:  # else the best two are equally good
        raise ValueError(f"nothing is written, for {what} has other labels than the network")


def timed(answering: Callable[[Any], Any], given: Any) -> tuple[Any, float]:
    """The answer, and the milliseconds for one picture: of a second call, where that is soon."""
    for _ in range(2):
        begun = time.perf_counter()
        answer = answering(given)
        seconds = time.perf_counter() - begun
        if seconds > 1:
            break
    return answer, 1e3 * seconds / len(given)


def made_up(trained: Trained, cut: bool) -> Iterator[tuple[Pictures, Tensor]]:
    """Batches of pictures of different sizes, each with the inputs that it becomes.

    They are brought to the network's size, or, where they are not to be cut, only the first batch
    is, and the network looks at the whole of the others.
    """
    from residual.export.model import larger

    before, draw = trained.preprocessing, np.random.default_rng(0)
    side = before.shorter or max(before.size)
    sizes = [(side * 4 // 3, side * 3 // 2), (side * 3 // 2, side), (side * 2 // 3 + 1, side + 5)]
    if not cut:
        sizes[1:] = larger(trained)
    for batch, (height, width) in zip(BATCHES, sizes, strict=True):
        coarse = draw.integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
        pictures = [Image.fromarray(each).resize((width, height)) for each in coarse]
        seen = pictures
        if cut or batch == 1:
            seen = [
                resize(each, before.size)
                if before.shorter is None
                else center_crop(each, before.size, before.shorter)
                for each in pictures
            ]
        inputs = before(torch.stack([to_tensor(each) for each in seen]))
        yield np.stack([np.asarray(each) for each in pictures]), inputs


def to_torchvision(trained: Trained, out: Path) -> None:
    """Write the weights under torchvision's names, for its network's `load_state_dict`, with labels
    and preprocessing in the metadata.

    Raises ValueError for a network that torchvision does not have, and where its network, with
    these weights, does not give the same probabilities.
    """
    from torchvision.models import get_model

    sound(trained)
    spec, (theirs, *_) = model_spec(trained.network), LAYOUTS
    stride_in_1x1 = spec.variant == "v1" and spec.family == "imagenet"
    if stride_in_1x1 and spec.option == "B" and ROWS[spec.depth][0] is bottleneck:
        raise ValueError(
            f"torchvision's {trained.network} is the variant v1.5, with the stride in the 3x3 "
            f"layer; it would take these weights and compute something else"
        )
    if spec.family != "imagenet" or spec.option != "B":
        raise ValueError(
            f"torchvision has no {trained.network}; it has resnet18, resnet34, and of 50, 101 and "
            f"152 layers the variant v1.5"
        )
    ours = trained.net.state_dict()
    net = get_model(f"resnet{spec.depth}", num_classes=len(ours["fc.bias"]))
    state = {key: ours[str(theirs.name(key))].contiguous() for key in net.state_dict()}
    net.load_state_dict(state, strict=True)
    _, inputs = next(made_up(trained, cut=True))
    with torch.inference_mode():
        found, expected = net.eval()(inputs).softmax(dim=1), trained.net(inputs).softmax(dim=1)
    compare(f"torchvision's resnet{spec.depth}", found, expected)
    write_weights(state, trained, out)


def to_safetensors(trained: Trained, out: Path) -> None:
    """Write the weights under our names, with labels and preprocessing in the metadata."""
    sound(trained)
    write_weights({k: t.contiguous() for k, t in trained.net.state_dict().items()}, trained, out)


def write_weights(state: Tensors, trained: Trained, out: Path) -> None:
    write_atomic(out, safetensors.torch.save(state, described(trained)))
