"""Files of weights, whatever program wrote them; nothing in them is ever run."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from residual import pickled
from residual.nets import caffemodel

WRAPPERS = ("state_dict", "model", "blobs")  # what scripts and Detectron save weights under
WANTED = (
    "weights are a .safetensors file, a state dict by torch.save, a .caffemodel, or a .pkl of "
    "Detectron's"
)


def file_of(path: Path) -> Path:
    """The weights file that a path is, or that lies in a folder as timm's models come in.

    Raises FileNotFoundError, or ValueError where it is empty.
    """
    if path.is_dir():
        inside = [path / name for name in ("model.safetensors", "pytorch_model.bin")]
        path = next((file for file in inside if file.is_file()), inside[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {WANTED}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {WANTED}")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a file of weights; no code in it is ever run.

    Raises FileNotFoundError, or ValueError where it is something else.
    """
    path = file_of(path)
    if path.suffix == ".caffemodel":
        return dict(caffemodel.read(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                content = as_tensors(pickled.load(file, encoding="latin1"))
        else:
            with warnings.catch_warnings(action="ignore"):  # of old pickles, which concern no user
                content = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # anything may come of bytes that are no weights
        raise ValueError(
            f"{path} holds no weights that can be read without running code from it; {WANTED}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; {WANTED}")
    return content


def as_tensors(value: Any) -> Any:
    """What a pickle of Detectron's holds, with tensors for arrays and without momenta."""
    if isinstance(value, Mapping):
        kept = ((str(k), v) for k, v in value.items() if not str(k).endswith("_momentum"))
        return {key: as_tensors(each) for key, each in kept}
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict itself, out of what a training script saved around it."""
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            return unwrapped(state[wrapper])
    return {str(key): value for key, value in state.items()}
