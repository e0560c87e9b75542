"""A trained detector with its classes and its preprocessing."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors

from residual.data.preprocessing import Preprocessing
from residual.device import ComputeConfig
from residual.runs import folder
from residual.runs.load import preprocessing_of, read_network
from residual.storage import damage_errors, read_json_object
from residual.tasks.detection.faster_rcnn import FasterRCNN, build, fuse_batchnorm
from residual.tasks.detection.recipe import Recipe, from_json
from residual.training import checkpoint


@dataclass(frozen=True)
class Trained:
    """A detector with all that its use needs."""

    net: FasterRCNN  # in evaluation mode
    recipe: Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    step: int
    sort: str = ""  # of the data that it was trained on: voc or coco
    notices: tuple[str, ...] = ()  # a sentence for each newer checkpoint that is damaged

    def placed(self, how: ComputeConfig) -> "Trained":
        """The same, on a device."""
        how.prepare(fuse_batchnorm(self.net))
        return self


def is_detection(path: Path) -> bool:
    """Whether a folder holds a detector's run, or a file its weights."""
    if path.is_file():
        return task_in(path) == "detection"
    file = path / "recipe.json"
    return file.is_file() and read_json_object(file).get("task") == "detection"


def task_in(file: Path) -> str:
    """What a checkpoint's recipe is for, of whose tensors none is read; "" for another file."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            recipe = json.loads((opened.metadata() or {}).get("recipe", "null"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return ""
    return str(recipe.get("task", "")) if isinstance(recipe, dict) else ""


def recipe_of(run: Path) -> Recipe:
    """Raises NoRun where the folder holds none, and ValueError where it is a classifier's."""
    if not (run / "recipe.json").is_file():
        raise folder.NoRun(f"{run} holds no run: it has no recipe.json")
    if not is_detection(run):
        raise ValueError(f"{run} is the run of a classifier; detectors: residual detect train")
    values = read_json_object(run / "recipe.json")
    with damage_errors(run / "recipe.json"):
        return from_json({key: value for key, value in values.items() if key != "format"})


def load(path: Path | str) -> Trained:
    """A detector's run, as its newest whole checkpoint has it, or one of its checkpoints.

    Raises FileNotFoundError and ValueError, in a sentence, for what is neither.
    """
    path = Path(path)
    if not path.is_dir():
        content = read_network(path)
        with damage_errors(path):
            return trained(*content)
    recipe_of(path)
    found = folder.newest(path)
    if found is None:
        raise ValueError(f"{path} has no checkpoint yet; go on with: residual resume {path}")
    tensors, header, complaints = found
    with damage_errors(path):
        return replace(trained(tensors, header), notices=tuple(complaints))


def trained(tensors: checkpoint.Tensors, header: dict[str, Any]) -> Trained:
    """What the content of a checkpoint is. Raises ValueError where it is no detector's."""
    values = header.get("recipe") or {}
    if values.get("task") != "detection":
        raise ValueError("these are the weights of a classifier; a detector is made by training")
    recipe, classes = from_json(values), tuple(header["classes"])
    net = build(recipe, len(classes))
    checkpoint.load_weights(net, tensors)
    before, sort = preprocessing_of(tensors, header), header.get("sort", "")
    return Trained(net.eval(), recipe, classes, before, header["step"], sort)
