"""A checkpoint: one safetensors file with a checksum over all that it holds. No pickle."""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from residual.data.preprocessing import Preprocessing
from residual.device import check_finite
from residual.storage import FORMAT, check_format, damage_errors, json_text, write_atomic

Tensors = dict[str, Tensor]


class Learning(Protocol):
    """A network while it learns."""

    step: int

    @property
    def net(self) -> torch.nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...


def _digest(tensors: Tensors, digest: Any) -> str:
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return str(digest.hexdigest())


def weights_sha256(state: Tensors) -> str:
    """One number for a network: over names, shapes and bytes of all its weights and statistics."""
    return _digest(state, hashlib.sha256())


def _checksum(tensors: Tensors, header: dict[str, str]) -> str:
    rest = {key: value for key, value in header.items() if key != "checksum"}
    return _digest(tensors, hashlib.sha256(json.dumps(rest, sort_keys=True).encode()))


def save(path: Path, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises OSError where the disk is full, and NotFinite
    where a tensor holds a number that is not finite; what was there before is then whole."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(tensors, f"{path} is not written")
    strings = {key: json_text(value) for key, value in {**header, "format": FORMAT}.items()}
    strings["checksum"] = _checksum(tensors, strings)
    write_atomic(path, safetensors.torch.save(tensors, strings))


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors, on the CPU, and the header; also of a network that `residual export` wrote as
    safetensors. Raises ValueError for a file that is not whole."""
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
    """The same, of a file that was read."""
    if "checksum" not in strings:
        if json.loads(strings.get("weights_sha256", "null")) == weights_sha256(tensors):
            return _taken_back(path, tensors, strings)
        raise ValueError(f"{path} was not written by residual; bring it in by `residual convert`")
    if strings["checksum"] != _checksum(tensors, strings):
        raise ValueError(f"{path} is damaged: its checksum does not match its content")
    check_format(path, json.loads(strings["format"]))
    return tensors, {k: json.loads(v) for k, v in strings.items() if k != "checksum"}


def _taken_back(
    path: Path, tensors: Tensors, strings: dict[str, str]
) -> tuple[Tensors, dict[str, Any]]:
    """Exported weights and their preprocessing, as a checkpoint has them."""
    said = {key: json.loads(value) for key, value in strings.items()}
    check_format(path, said["format"])
    before = said["preprocessing"]
    if before["whitening"]:
        raise ValueError(f"{path} lacks the whitening of its pictures; take the run that it is of")
    ours = {f"net.{name}": tensor for name, tensor in tensors.items()}
    mean = torch.tensor(before["mean_image"] or before["mean"])
    ours["preprocessing.mean"] = mean.view(3, *(mean.shape[1:] or (1, 1)))
    ours["preprocessing.std"] = torch.tensor(before["std"]).view(3, 1, 1)
    header = {key: before[key] for key in ("size", "shorter", "contrast")}
    same = {key: said[key] for key in ("network", "source")}
    return ours, {**header, **same, "classes": said["labels"]}


# Of each parameter, by the name's beginning in a checkpoint: what an optimizer calls it.
GATHERED = {"optimizer": "momentum_buffer", "square": "square_avg", "steps": "step"}


def of_run(run: Learning) -> Tensors:
    """All that changes while a run learns: weights, statistics and what the optimizer gathers."""
    tensors = {f"net.{name}": tensor for name, tensor in run.net.state_dict().items()}
    for name, parameter in run.net.named_parameters():
        for prefix, key in GATHERED.items():
            gathered = run.optimizer.state.get(parameter, {}).get(key)
            if gathered is not None:
                tensors[f"{prefix}.{name}"] = gathered
    return tensors


def restore(run: Learning, tensors: Tensors, step: int) -> None:
    """Put a run back where `of_run` found it."""
    load_weights(run.net, tensors)
    for name, parameter in run.net.named_parameters():
        for prefix, key in GATHERED.items():
            gathered = tensors.get(f"{prefix}.{name}")
            if gathered is not None:
                like = gathered if key == "step" else torch.empty_like(parameter)
                run.optimizer.state[parameter][key] = like.detach().copy_(gathered)
    run.step = step


def load_weights(net: torch.nn.Module, tensors: Tensors) -> None:
    """The network's part of a checkpoint. Raises ValueError where it does not fit."""
    state = {k.removeprefix("net."): t for k, t in tensors.items() if k.startswith("net.")}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the network: {error}") from error


def preprocessing_of(tensors: Tensors, header: dict[str, Any]) -> Preprocessing:
    """The part of a checkpoint that says how an image becomes an input."""
    height, width = header["size"]
    sides = [height, width, header.get("shorter") or 1]
    if not all(type(side) is int and 0 < side < 2**15 for side in sides):
        raise ValueError(f"a picture's sides are pixels, not {sides}")
    mean, std = tensors["preprocessing.mean"], tensors["preprocessing.std"]
    whitening = tensors.get("preprocessing.whitening")
    contrast = header.get("contrast", False)
    return Preprocessing(mean, std, (height, width), header.get("shorter"), contrast, whitening)


def with_preprocessing(
    tensors: Tensors, header: dict[str, Any], own: Preprocessing
) -> tuple[Tensors, dict[str, Any]]:
    """The content of a checkpoint, with that part."""
    parts = {"mean": own.mean, "std": own.std, "whitening": own.whitening}
    there = {f"preprocessing.{k}": tensor for k, tensor in parts.items() if tensor is not None}
    said = {"size": list(own.size), "shorter": own.shorter, "contrast": own.contrast}
    return tensors | there, header | said
