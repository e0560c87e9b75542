"""A trained network for elsewhere, checked before it is written."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import centre, pixels, resized
from residual.deployment.engine import installed, session_of
from residual.files import FORMAT, write_whole
from residual.nets.layouts import LAYOUTS
from residual.nets.networks import specify
from residual.runs.loading import Trained

TOLERANCE = 1e-4  # of a probability
BATCHES = (1, 3, 17)


@dataclass(frozen=True)
class Parity:
    """What the check found."""

    apart: float  # the largest difference between two probabilities
    images_per_second: dict[str, float]  # by name of the side


def described(trained: Trained) -> dict[str, Any]:
    """What a user must know of an exported network: its labels and its preprocessing."""
    before = trained.preprocessing
    return {
        "format": FORMAT,
        "network": trained.network,
        "labels": list(trained.classes) if trained.classes else None,
        "size": list(before.size),
        "shorter": before.shorter,
        "interpolation": "bilinear, antialiased",
        "mean": before.mean.mean(dim=(1, 2)).tolist(),
        "std": before.std.mean(dim=(1, 2)).tolist(),
        "colours": "RGB",
    }


def to_onnx(trained: Trained, out: Path, inside: bool) -> Parity:
    """Write an ONNX model of dynamic batch and size, with labels and preprocessing in its metadata.

    Raises ValueError, and writes nothing, where its probabilities are not the network's, or where
    ONNX and ONNX Runtime are not installed.
    """
    if not installed():
        raise ValueError("ONNX is not installed; pip install 'residual-learning[deploy]'")
    from onnx import helper

    from residual.deployment.model import model

    made = model(trained, inside)
    helper.set_model_props(made, {key: json.dumps(v) for key, v in described(trained).items()})
    content = made.SerializeToString()
    found = parity(trained, content, inside)
    if not found.apart <= TOLERANCE:
        raise ValueError(
            f"nothing is written, for the ONNX model of {trained.network} differs from the network "
            f"by {found.apart:.2g} in a probability; {TOLERANCE:g} is allowed"
        )
    write_whole(out, content)
    return found


def parity(trained: Trained, content: bytes, inside: bool) -> Parity:
    """The model beside the network, on made-up pictures of several sizes and batches."""
    session = session_of(content, torch.get_num_threads())
    name, apart = session.get_inputs()[0].name, 0.0
    seconds, images = {"torch": 0.0, "onnxruntime": 0.0}, 0
    for batch, (pictures, inputs) in zip(BATCHES, made_up(trained), strict=True):
        images += batch
        given = pictures if inside else inputs.numpy()
        begun = time.perf_counter()
        with torch.inference_mode():
            expected = trained.net(inputs).float().softmax(dim=1)
        between = time.perf_counter()
        (answer,) = session.run(None, {name: given})
        seconds["torch"] += between - begun
        seconds["onnxruntime"] += time.perf_counter() - between
        difference = float((torch.from_numpy(answer) - expected).abs().max())
        apart = max(apart, difference) if math.isfinite(difference) else math.inf
        if not same_labels(torch.from_numpy(answer), expected):
            apart = math.inf
    return Parity(apart, {side: images / spent for side, spent in seconds.items()})


def same_labels(ours: Tensor, theirs: Tensor) -> bool:
    """Whether the best classes of probabilities (N, classes) agree, but for those that tie."""
    best, other = theirs.max(dim=1)[0], theirs.gather(1, ours.argmax(dim=1, keepdim=True))[:, 0]
    return bool((best - other <= TOLERANCE).all())


def made_up(trained: Trained) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
    """Batches of pictures (N, H, W, 3) of different sizes, with the inputs that they become."""
    before, draw = trained.preprocessing, np.random.default_rng(0)
    side = before.shorter or max(before.size)
    sizes = ((side, side * 4 // 3), (side * 3 // 2, side), (side * 2 // 3 + 1, side))
    for batch, (height, width) in zip(BATCHES, sizes, strict=True):
        coarse = draw.integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
        pictures = [Image.fromarray(each).resize((width, height)) for each in coarse]
        cut = [
            resized(each, before.size)
            if before.shorter is None
            else centre(each, before.size, before.shorter)
            for each in pictures
        ]
        stacked = np.stack([np.asarray(each) for each in pictures])
        yield stacked, before(torch.stack([pixels(each) for each in cut]))


def to_torchvision(trained: Trained, out: Path) -> None:
    """Write a state dict under torchvision's names, as torch.save writes it, and beside it a JSON
    file with labels and preprocessing.

    Raises ValueError for a network that torchvision does not have.
    """
    import io

    from torchvision.models import get_model

    spec, (theirs, *_) = specify(trained.network), LAYOUTS
    bottleneck = spec.family == "imagenet" and spec.depth >= 50
    if spec.family != "imagenet" or spec.option != "B" or (bottleneck and spec.variant == "v1"):
        raise ValueError(
            f"torchvision has no {trained.network}; it has resnet18, resnet34, and of 50, 101 and "
            f"152 layers the variant v1.5"
        )
    with torch.device("meta"):
        keys = get_model(f"resnet{spec.depth}").state_dict()
    ours = trained.net.state_dict()
    content = io.BytesIO()
    torch.save({key: ours[str(theirs.name(key))].clone() for key in keys}, content)
    write_whole(out, content.getvalue())
    beside(trained, out)


def to_safetensors(trained: Trained, out: Path) -> None:
    """Write the weights under our names, with labels and preprocessing in the metadata."""
    from safetensors.torch import save

    metadata = {key: json.dumps(value) for key, value in described(trained).items()}
    tensors = {name: t.contiguous() for name, t in trained.net.state_dict().items()}
    write_whole(out, save(tensors, metadata))


def beside(trained: Trained, out: Path) -> Path:
    """A JSON file for what a state dict cannot hold."""
    path = out.with_suffix(".json")
    write_whole(path, (json.dumps(described(trained), indent=1) + "\n").encode())
    return path
