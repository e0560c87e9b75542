"""Loads a trained detector."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from residual.device import ComputeConfig
from residual.runs import folder
from residual.runs.load import Trained, read, stated_error
from residual.storage import damage_errors
from residual.tasks.detection.faster_rcnn import FasterRCNN, build, fuse_batchnorm
from residual.tasks.detection.recipe import DetectionRecipe, from_json
from residual.training import checkpoint


@dataclass(frozen=True)
class TrainedDetector(Trained):
    """A detector with everything that inference needs."""

    net: FasterRCNN
    classes: tuple[str, ...]
    recipe: DetectionRecipe
    annotations: str = ""  # of the training data: voc or coco

    def placed(self, config: ComputeConfig) -> Self:
        """Move the detector to the device of a configuration; frozen batch norm is folded."""
        config.prepare(fuse_batchnorm(self.net))
        return self


def read_recipe(run: Path) -> DetectionRecipe:
    """The recipe of a run. Raises NoRun for a folder without one, ValueError for a classifier's."""
    values = folder.recipe_values(run)
    if values.get("task") != "detection":
        raise ValueError(f"{run} is the run of a classifier; detectors: residual detect train")
    with damage_errors(run / "recipe.json"):
        return from_json(values)


def load(path: Path | str) -> TrainedDetector:
    """Load the newest whole checkpoint of a run, or one of its checkpoint files.

    Raises FileNotFoundError and ValueError, in a sentence, for anything else.
    """
    path = Path(path)
    if path.is_dir():
        read_recipe(path)
    tensors, header, notices = read(path)
    with damage_errors(path):
        detector = from_checkpoint(tensors, header, notices)
    return replace(detector, error=stated_error(path))


def from_checkpoint(
    tensors: checkpoint.Tensors, header: dict[str, Any], notices: tuple[str, ...]
) -> TrainedDetector:
    """The detector of a checkpoint. Raises ValueError for the weights of a classifier."""
    values = header.get("recipe") or {}
    if values.get("task") != "detection":
        raise ValueError("these are the weights of a classifier; a detector is made by training")
    recipe, classes = from_json(values), tuple(header["classes"])
    net = build(recipe, len(classes))
    checkpoint.load_weights(net, tensors)
    return TrainedDetector(
        net=net.eval(),
        network=recipe.network,
        classes=classes,
        preprocessing=checkpoint.preprocessing_of(tensors, header),
        recipe=recipe,
        step=header["step"],
        annotations=header.get("sort", ""),
        notices=notices,
    )
