"""A checkpoint: one safetensors file with a checksum over all that it holds. No pickle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from residual.data.normalization import Preprocessing
from residual.device import check_finite
from residual.storage import FORMAT, check_format, damage_errors, json_text, write_atomic
from residual.training.loop import Learner

Tensors = dict[str, Tensor]


def weights_sha256(state: Tensors, header: bytes = b"") -> str:
    """SHA-256 over names, shapes and bytes of all weights and statistics of a network."""
    digest = hashlib.sha256(header)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _checksum(tensors: Tensors, header: dict[str, str]) -> str:
    rest = {key: value for key, value in header.items() if key != "checksum"}
    return weights_sha256(tensors, json.dumps(rest, sort_keys=True).encode())


def save(path: Path, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises OSError if the disk is full, NonFiniteValues
    if a value is not finite; an existing file is then unchanged."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(tensors, f"{path} is not written")
    strings = {key: json_text(value) for key, value in {**header, "format": FORMAT}.items()}
    strings["checksum"] = _checksum(tensors, strings)
    write_atomic(path, safetensors.torch.save(tensors, strings))


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors, on the CPU, and the header of a checkpoint, or of a file that `residual export`
    wrote as safetensors. Raises FileNotFoundError, and ValueError for a damaged or other file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".onnx":
        raise ValueError(
            f"{path} is an ONNX model: name the run that it was made of; of a detector, `residual "
            f"detect predict` takes the model, too"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged or is no safetensors file: {error}; "
            f"weights of other programs come in by `residual convert`"
        ) from error
    with damage_errors(path):
        return _content(path, tensors, strings)


def _content(
    path: Path, tensors: Tensors, strings: dict[str, str]
) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the header, checked and parsed."""
    if "checksum" not in strings:
        if json.loads(strings.get("weights_sha256", "null")) == weights_sha256(tensors):
            return _from_export(path, tensors, strings)
        raise ValueError(f"{path} was not written by residual; bring it in by `residual convert`")
    if strings["checksum"] != _checksum(tensors, strings):
        raise ValueError(f"{path} is damaged: its checksum does not match its content")
    check_format(path, json.loads(strings["format"]))
    return tensors, {k: json.loads(v) for k, v in strings.items() if k != "checksum"}


def _from_export(
    path: Path, tensors: Tensors, strings: dict[str, str]
) -> tuple[Tensors, dict[str, Any]]:
    """Exported weights and their preprocessing in the form of a checkpoint."""
    metadata = {key: json.loads(value) for key, value in strings.items()}
    check_format(path, metadata["format"])
    preprocessing = metadata["preprocessing"]
    if preprocessing["whitening"]:
        raise ValueError(f"{path} lacks its ZCA whitening; use the run folder instead")
    content = {f"net.{name}": tensor for name, tensor in tensors.items()}
    mean = torch.tensor(preprocessing["mean_image"] or preprocessing["mean"])
    content["preprocessing.mean"] = mean.view(3, *(mean.shape[1:] or (1, 1)))
    content["preprocessing.std"] = torch.tensor(preprocessing["std"]).view(3, 1, 1)
    header = {key: preprocessing[key] for key in ("size", "shorter", "contrast")}
    header |= {key: metadata[key] for key in ("network", "source")}
    return content, {**header, "classes": metadata["labels"]}


# Prefix in a checkpoint -> key in the state of an optimizer.
OPTIMIZER_STATE = {"optimizer": "momentum_buffer", "square": "square_avg", "steps": "step"}


def training_state(learner: Learner[Any]) -> Tensors:
    """The state of a training: weights, statistics and optimizer state."""
    tensors = {f"net.{name}": tensor for name, tensor in learner.net.state_dict().items()}
    for name, parameter in learner.net.named_parameters():
        for prefix, key in OPTIMIZER_STATE.items():
            state = learner.optimizer.state.get(parameter, {}).get(key)
            if state is not None:
                tensors[f"{prefix}.{name}"] = state
    return tensors


def restore(learner: Learner[Any], tensors: Tensors, step: int) -> None:
    """Restore a training from the tensors of `training_state`."""
    load_weights(learner.net, tensors)
    for name, parameter in learner.net.named_parameters():
        for prefix, key in OPTIMIZER_STATE.items():
            state = tensors.get(f"{prefix}.{name}")
            if state is not None:
                like = state if key == "step" else torch.empty_like(parameter)
                learner.optimizer.state[parameter][key] = like.detach().copy_(state)
    learner.step = step


def load_weights(net: torch.nn.Module, tensors: Tensors) -> None:
    """Load the weights of a checkpoint into a network. Raises ValueError if they do not fit."""
    state = {k.removeprefix("net."): t for k, t in tensors.items() if k.startswith("net.")}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the network: {error}") from error


def preprocessing_of(tensors: Tensors, header: dict[str, Any]) -> Preprocessing:
    """The preprocessing in a checkpoint. Raises ValueError for impossible sizes."""
    height, width = header["size"]
    sides = [height, width, header.get("shorter") or 1]
    if not all(type(side) is int and 0 < side < 2**15 for side in sides):
        raise ValueError(f"a picture's sides are pixels, not {sides}")
    mean, std = tensors["preprocessing.mean"], tensors["preprocessing.std"]
    whitening = tensors.get("preprocessing.whitening")
    contrast = header.get("contrast", False)
    return Preprocessing(mean, std, (height, width), header.get("shorter"), contrast, whitening)


def with_preprocessing(
    tensors: Tensors, header: dict[str, Any], preprocessing: Preprocessing
) -> tuple[Tensors, dict[str, Any]]:
    """The content of a checkpoint with its preprocessing."""
    parts = {name: getattr(preprocessing, name) for name in ("mean", "std", "whitening")}
    stored = {f"preprocessing.{k}": tensor for k, tensor in parts.items() if tensor is not None}
    sizes = {"size": list(preprocessing.size), "shorter": preprocessing.shorter}
    return tensors | stored, header | sizes | {"contrast": preprocessing.contrast}
