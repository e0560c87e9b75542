"""A trained network with its classes and its preprocessing, for any task."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig
from residual.models import registry
from residual.runs import folder
from residual.storage import damage_errors, read_json_object
from residual.training import checkpoint
from residual.weights.published import shipped_files


@dataclass(frozen=True)
class Trained:
    """A network with everything that inference needs."""

    net: nn.Module  # in evaluation mode
    network: str  # its name
    classes: tuple[str, ...] | None  # None for foreign weights without class names
    preprocessing: Preprocessing
    recipe: Any  # of the task; None for foreign weights
    step: int | None
    source: str | None = None  # of foreign weights
    notices: tuple[str, ...] = ()  # a sentence for each newer checkpoint that is damaged
    body: bool = False  # the weights lack the last layer, which is zero
    error: dict[str, Any] | None = None  # that was measured, see `stated_error`

    @property
    def num_classes(self) -> int:
        """The number of classes that it scores; a user's module has their names."""
        return len(self.classes) if self.classes else registry.num_classes(self.net)

    def placed(self, config: ComputeConfig) -> Self:
        """Move the network to the device of a configuration."""
        user = registry.is_user_class(self.network)  # its module may call `view`
        replace(config, channels_last=config.channels_last and not user).prepare(self.net)
        return self


def read(path: Path) -> tuple[checkpoint.Tensors, dict[str, Any], tuple[str, ...]]:
    """The newest whole checkpoint of a run, or a checkpoint file: tensors, header, and a sentence
    for each newer checkpoint that is damaged.

    Raises FileNotFoundError, and ValueError for a run without a checkpoint and for a file that
    holds no network, like the proposals of a detector's training.
    """
    if path.is_dir():
        newest = folder.newest(path)
        if newest is None:
            raise ValueError(f"{path} has no checkpoint yet; go on with: residual resume {path}")
        tensors, header, damaged = newest
        return tensors, header, tuple(damaged)
    tensors, header = checkpoint.read(path)
    if not {"network", "classes", "size"} <= header.keys():
        raise ValueError(f"{path} holds no network; name a run, or a file in its checkpoints/")
    return tensors, header, ()


def stated_error(path: Path, source: str | None = None) -> dict[str, Any] | None:
    """The error or the average precision in the result of a run, or on the card of weights that
    come with the package: in percent, with its data and protocol. None without a whole result."""
    card, result = shipped_files().get(source or ""), path / "result.json"
    file = card.with_suffix(".json") if card else result
    try:
        with damage_errors(file):
            return error_of(read_json_object(file))
    except (OSError, ValueError):  # the network is whole without it
        return None


def error_of(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that states an error or an average precision."""
    keys = ("error_top1", "error_top5", "seen", "protocol")
    values = {key: result[key] for key in keys if result.get(key) is not None}
    aps = {key: ap for key, ap in result.get("ap", {}).items() if key.startswith("AP")}
    means = {key: ap["mean"] for key, ap in aps.items() if ap["mean"] is not None}
    data = {"data": result["data"]["name"], "split": result["data"].get("split")}
    return values | ({"ap": means} if means else {}) | data
