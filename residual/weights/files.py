"""Reads weight files of any program, and one network's weights in them, without running code."""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from residual import storage
from residual.storage import summarize
from residual.weights import caffe

FORMATS = (
    "weights are a .safetensors file, a state dict by torch.save, a .caffemodel, or a .pkl of "
    "Detectron's"
)


def file_of(path: Path) -> Path:
    """The path of a weight file, or of the weight file in a folder as timm's models come in.

    Raises FileNotFoundError, or ValueError for an empty file.
    """
    if path.is_dir():
        candidates = [path / name for name in ("model.safetensors", "pytorch_model.bin")]
        path = next((file for file in candidates if file.is_file()), candidates[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {FORMATS}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {FORMATS}")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a weight file. Raises FileNotFoundError, or ValueError for anything else."""
    path = file_of(path)
    if path.suffix == ".caffemodel":
        return dict(caffe.read(path))
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".pkl" and not zipfile.is_zipfile(path):  # torch.save writes archives
            content = without_momenta(storage.load_pickle(path.read_bytes(), encoding="latin1"))
        else:
            with warnings.catch_warnings(action="ignore"):  # about old pickles
                content = storage.load_torch(path)
    except Exception as error:  # a damaged file can cause any exception
        if isinstance(error, OSError):
            raise
        raise ValueError(
            f"{path} is damaged, or holds no weights that can be read without running code from it"
            f"; {FORMATS}"
        ) from error
    if not isinstance(content, dict):
        kind = f"a {type(content).__name__}"
        if isinstance(content, storage.Inert):
            kind = "an object that only its own code can read: save its state_dict()"
        raise ValueError(f"{path} holds {kind}; {FORMATS}")
    return content


def without_momenta(content: Any) -> Any:
    """The content of Detectron's pickle, without the optimizer's momenta."""
    if not isinstance(content, dict):
        return content
    weights = {key: value for key, value in content.items() if not str(key).endswith("_momentum")}
    blobs = weights.get("blobs")
    return weights | {"blobs": without_momenta(blobs)} if isinstance(blobs, dict) else weights


# ---- one network's weights in a file ------------------------------------------------------------

# The names under which training scripts save the trained weights. Other entries hold averaged
# weights (state_dict_ema, model_ema), optimizers and much else.
USUAL = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "blobs")
# A network's prefix is the text before the first of these keys; it must precede the others, too.
STEMS = (
    ("conv1.weight", "layer1.0.conv1.weight"),
    (
        "embedder.embedder.convolution.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
    ),
    ("features.0.weight",),
)
COMPILED = "_orig_mod."  # torch.compile adds this to the names in a compiled module
COUNT = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
# mmpretrain and Hugging Face keep the last layer outside of the body. By the body's prefix: the
# last layer's prefix, and its name within the network.
HEADS = {
    "backbone.": ("head.fc.", "fc."),
    "resnet.": ("classifier.1.", "classifier.1."),
}
# MoCo's networks: their last layer is a projection, no classifier.
CONTRASTIVE = ("encoder_q.", "encoder_k.", "base_encoder.", "momentum_encoder.")


def entry(
    content: Mapping[str, Any], name: str | None = None
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The weights of one network in a file's content: the named entry, or else the usual one. They
    come by the file's keys, with each key's name within the network, and notices for the user.

    An entry's name is the content's name for it, or the prefix of its keys. Raises ValueError if
    there is no such entry, or if there are several and none is the usual one.
    """
    entries = dict(state_dicts(content, set())) or {"": content}
    place, required = select_entry(list(entries), name)
    state = {key: as_tensor(value) for key, value in entries[place].items() if isinstance(key, str)}
    short = {key: key.replace(COMPILED, "") for key in state}
    start = prefix(set(short.values()), required, [other for other in entries if other])
    inner = {key: inner_name(text, start) for key, text in short.items()}
    names = {key: text for key, text in inner.items() if text is not None}
    notices = []
    if len(entries) > 1:
        others = summarize([other for other in entries if other != place], 4).partition(": ")[2]
        notices.append(f"the weights under {place} are taken, not those under {others} (--entry)")
    if outside := [key for key in state if key not in names and short[key] != COUNT]:
        notices.append(f"keys that do not belong to the network are left out {summarize(outside)}")
    return {key: state[key] for key in names}, names, notices


def state_dicts(
    content: Mapping[Any, Any], visited: set[int], depth: int = 2
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The state dicts in a file's content by name: the content, its entries, or their entries."""
    visited.add(id(content))
    if any(isinstance(value, Tensor | np.ndarray) and value.ndim > 1 for value in content.values()):
        yield "", content
        return
    for name, value in content.items() if depth else ():
        if isinstance(name, str) and isinstance(value, Mapping) and id(value) not in visited:
            for place, state in state_dicts(value, visited, depth - 1):
                yield f"{name}.{place}".removesuffix("."), state


def select_entry(entries: list[str], name: str | None) -> tuple[str, str | None]:
    """The entry to take, and the prefix that its keys must have. Raises ValueError."""
    if name is not None:
        for place in filter(None, entries):
            if f"{name}.".startswith(f"{place}."):
                return place, f"{name}.".removeprefix(f"{place}.") or None
        if inside := [place for place in entries if place.startswith(f"{name}.")]:
            return select_entry(inside, None)
    usual = [place for first in USUAL for place in entries if place.partition(".")[0] == first]
    if len(entries) > 1 and not usual:
        raise ValueError(f"there are weights under {', '.join(entries)}: choose one with --entry")
    return (usual or entries)[0], None if name is None else f"{name}."


def prefix(keys: set[str], required: str | None, entries: list[str]) -> str:
    """The prefix of the network's keys. Raises ValueError if there are several networks."""
    prefixes = sorted(
        start
        for first, *others in STEMS
        for key in keys
        if f".{key}".endswith(f".{first}")
        for start in [key.removesuffix(first)]
        if all(start + other in keys for other in others)
    )
    names = [start.removesuffix(".") for start in prefixes if start]
    if required is not None:
        for start in prefixes:
            if start in (required, f"{required}resnet."):
                return start
        options = ", ".join([*entries, *names])
        raise ValueError(
            f"there is no entry {required.removesuffix('.')}"
            + (f"; there are {options}" if options else "")
        )
    if len(prefixes) > 1:
        raise ValueError(
            f"there are several networks, whose keys begin with {', '.join(names)}: choose one "
            "with --entry"
        )
    return (prefixes or [""])[0]


def inner_name(key: str, start: str) -> str | None:
    """A key without the network's prefix; None if it belongs to something else."""
    if key.startswith(start):
        name = key.removeprefix(start)
        return None if start.endswith(CONTRASTIVE) and name.startswith("fc.") else name
    for body, (head, name) in HEADS.items():
        outer = start.removesuffix(body) + head
        if start.endswith(body) and key.startswith(outer):
            return name + key.removeprefix(outer)
    return None


def as_tensor(value: Any) -> Any:
    """A numeric array as a tensor; any other value unchanged."""
    with suppress(TypeError, ValueError):
        return torch.tensor(value) if isinstance(value, np.ndarray) else value
    return value
