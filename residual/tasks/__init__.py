"""The interface of `tasks/<task>/train.py`, and the choice of a task by name, network or data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from residual.data.datasets import Progress
    from residual.training.events import Event, RunOptions

DETECTOR = "fasterrcnn-"  # prefix of a network's name: a detector on it


class TaskModule(Protocol):
    """The functions of `tasks/<task>/train.py`, which commands call."""

    def read_recipe(self, run: Path) -> Any:
        """The recipe of a run."""

    @property
    def choose_recipe(self) -> Callable[..., tuple[Any, Any]]:
        """(network, data, recipe, steps, changes) -> the usual recipe, and the chosen one."""

    def load_data(
        self,
        recipe: Any,
        source: dict[str, str],
        workers: int,
        progress: "Progress",
        classes: tuple[str, ...] | None = None,
    ) -> Any:
        """The data of a recipe. `classes` are those of a run that is resumed."""

    @property
    def complete_recipe(self) -> Callable[..., Any]:
        """(recipe, config, weights, **options) -> the recipe with the digest of its initial
        weights, checked before data is read. Raises ValueError."""

    def check_effects(self, recipe: Any, usual: Any, data: Any) -> None:
        """Raises ValueError for a field that was set and has no effect."""

    def notices(self, recipe: Any, usual: Any, data: Any) -> list[str]:
        """Sentences that the user should know about the data, before a training."""

    @property
    def begin(self) -> Callable[..., Path]:
        """(run, recipe, data, source, config, weights, **options): make the folder of a run."""

    def advance(self, run: Path, data: Any, options: "RunOptions") -> Iterator["Event"]:
        """Take the steps that remain of a run."""


def task_module(name: str) -> TaskModule:
    """The functions of a task: classification or detection."""
    if name == "detection":
        from residual.tasks.detection import train as detection

        return detection
    from residual.tasks.classification import train as classification

    return classification


def refuse_boxes(where: str) -> None:
    """Raises ValueError for a folder of boxes around objects."""
    from residual.tasks.detection.datasets import detect_format

    if Path(where).is_dir() and detect_format(Path(where)):
        raise ValueError(
            f"{where} holds boxes around objects: name a detector, such as {DETECTOR}resnet18"
        )
