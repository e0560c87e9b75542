"""Options that several commands share, and the objects that commands create from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.progress import counting, notify
from residual.storage import DEFAULT_ROOT, read_json_object

if TYPE_CHECKING:
    from residual.data.datasets import Data
    from residual.device import ComputeConfig
    from residual.runs.load import Trained
    from residual.tasks.detection.load import TrainedDetector

Model = Annotated[
    Path, typer.Argument(help="A run, weights (a file or a public name), or an .onnx file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto: the GPU if there is one.")]
Threads = Annotated[int, typer.Option(min=0, help="Processor threads; 0: every core.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode pictures.")]
Precision = Annotated[str, typer.Option(help="float32 or bf16; auto: the faster in a short trial.")]
Exact = Annotated[
    str, typer.Option("--precision", help="float32, or bf16: less exact, often faster.")
]
BoxFrame = Annotated[
    str | None,
    typer.Option(
        "--box-frame",
        help="upright: boxes refer to the picture after EXIF rotation; stored: before.",
    ),
]
BoxUnit = Annotated[
    str | None, typer.Option("--box-unit", help="pixels, or fraction: of a picture's sides.")
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Refuse operations that may differ between runs.")
]
Root = Annotated[Path, typer.Option(help="The folder of data sets and caches.")]
Data_ = Annotated[
    str | None,
    typer.Option("--data", help="digits, cifar10, or a folder of images by class."),
]


def compute_config(
    device: str, threads: int, precision: str, deterministic: bool = False
) -> "ComputeConfig":
    """The computing options of a command line. Impossible ones are usage errors."""
    import residual.device

    with usage_errors():
        return residual.device.compute_config(device, threads, precision, deterministic)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError into a usage error, around what the command line alone decides."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def load_trained(path: Path, body: bool = False) -> "Trained":
    """Load a run or a file of weights, and print its notices."""
    from residual.tasks.classification.load import load
    from residual.weights.convert import locate

    path = locate(path, DEFAULT_ROOT)
    trained = load(path, body=body)
    notify(*(f"{notice}; the checkpoint before it is used" for notice in trained.notices))
    if (path / "recipe.json").exists() and not (path / "result.json").exists():
        steps = trained.recipe.steps if trained.recipe else 0
        notify(f"{path} is not finished: {trained.step:,} of {steps:,} steps")
    return trained


def load_detectors(paths: list[Path]) -> "list[TrainedDetector]":
    """Detectors; prints notices about damaged checkpoints."""
    from residual.tasks.detection.load import load

    detectors = [load(path) for path in paths]
    notices = (notice for detector in detectors for notice in detector.notices)
    notify(*(f"{notice}; the checkpoint before it is used" for notice in notices))
    return detectors


def data_of(path: Path, name: str | None, root: Path, option: str = "--data") -> tuple[str, Path]:
    """The data named by an option, or else the one that the run was trained on; its root."""
    if name is not None:
        return name, root
    from residual.runs.environment import existing_data

    if not (path / "environment.json").exists():
        raise typer.BadParameter(f"{path} is no run; say which data to take with {option}")
    data = read_json_object(path / "environment.json")["data"]
    return existing_data(path, str(data["where"])), Path(data["root"])


def load_data(
    task: str,
    recipe: Any,
    source: dict[str, str],
    workers: int,
    classes: tuple[str, ...] | None = None,
) -> Any:
    """The data of a recipe, with progress while it is read. Raises ValueError for data of another
    task."""
    from residual.tasks import refuse_boxes, task_module

    if task == "classification":
        refuse_boxes(source["where"])
    with counting("reading pictures") as progress:
        data = task_module(task).load_data(recipe, source, workers, progress, classes)
    if task == "classification":
        notify(*data.notices)
    return data


def load_pictures(name: str, root: Path, size: int, workers: int, as_files: bool = False) -> "Data":
    """Data of pictures, with progress while they are decoded."""
    from residual.data.sources import load

    root = root.expanduser()
    with counting("reading pictures") as progress:
        data = load(name, root, size=size, as_files=as_files, workers=workers, progress=progress)
    notify(*data.notices)
    return data
