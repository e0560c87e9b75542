"""The command `resume`, and what the training commands of both tasks share."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import (
    Data_,
    Json,
    Workers,
    compute_config,
    load_data,
    load_trained,
    usage_errors,
)
from residual.cli.progress import ProgressOptions, joined, notify, tensorboard_writer, with_progress
from residual.storage import json_text, read_json, read_json_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from residual.device import ComputeConfig
    from residual.runs.load import Trained
    from residual.tasks import TaskModule

Weights = Annotated[
    str | None,
    typer.Option(help="Initial weights: a run, a file, or e.g. resnet50.IMAGENET1K_V2."),
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; by default runs/<network>-<n>.")]
Minutes = Annotated[float, typer.Option(min=0, help="Minutes between two checkpoints.")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write TensorBoard curves into the run.")
]


@dataclass(frozen=True)
class Start:
    """Options that the training commands of all tasks share."""

    data: str
    weights: str | None
    out: Path | None
    root: Path
    progress: ProgressOptions


def begin_run(
    task: str, recipe: Any, usual: Any, start: Start, config_of: "Callable[[], ComputeConfig]",
    **options: Any,
) -> None:  # fmt: skip
    """Make a run of a task and take its steps. The options are the task's own."""
    from residual.data.sources import data_source
    from residual.tasks import task_module

    module = task_module(task)
    with joined() as world:
        with usage_errors():
            config = config_of()
        weights = world.on_first(lambda: initial_weights(start.weights, start.root, task))
        recipe = world.on_first(lambda: module.complete_recipe(recipe, config, weights, **options))
        run = world.on_first(lambda: new_run(start.out, recipe))
        source = data_source(start.data, start.root)
        data = load_data(task, recipe, source, start.progress.workers)
        if world.rank == 0:
            notify(*module.notices(recipe, usual, data))
        module.check_effects(recipe, usual, data)

        start_values = (run, recipe, data, source, config, weights)
        run = world.on_first(lambda: begin_once(module, *start_values, **options))
        run_training(run, recipe.steps, module, data, start.progress)


def begin_once(task: "TaskModule", run: Path | None, *values: Any, **options: Any) -> Path:
    """Make the folder of a run, unless an earlier attempt of the same job made it."""
    if restarted() and run and (run / "recipe.json").exists():
        return run
    return task.begin(run, *values, **options)


def new_run(out: Path | None, recipe: Any) -> Path | None:
    """The folder for a run; None for the first free name. An existing run is continued only if
    torchrun restarts the same command after a failure."""
    from residual.runs import folder
    from residual.training.recipe import to_json

    if restarted():
        return out or folder.latest(to_json(recipe), folder.RUNS)
    if out:
        folder.refuse_held(out)
        folder.refuse_taken(out)
    return out


def restarted() -> bool:
    """Whether torchrun restarts the same command after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def initial_weights(weights: str | None, root: Path, task: str) -> "Trained | None":
    """Initial weights of a training: a run, a file, or published weights, which are fetched."""
    if weights is None:
        return None
    from residual.runs.folder import is_detection

    if task == "detection" and is_detection(Path(weights)):
        from residual.tasks.detection.load import load

        return load(Path(weights))
    from residual.weights.convert import find_or_download

    return load_trained(find_or_download(weights, root.expanduser()), body=True)


def resume(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    data: Data_ = None,
    out: Annotated[
        Path | None, typer.Option(help="Continue in a copy; this run stays unchanged.")
    ] = None,
    inexact: Annotated[
        bool, typer.Option("--inexact", help="Continue although versions or the machine differ.")
    ] = False,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Annotated[
        Path | None, typer.Option(help="The folder of data sets, if it was moved.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Default: as before.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Default: as before.")] = None,
    workers: Workers = 2,
    precision: Annotated[str | None, typer.Option(help="Default: as before.")] = None,
    as_json: Json = False,
) -> None:
    """Resume a run; the result is that of an uninterrupted run.

    Example: residual resume runs/resnet20-1
    """
    from residual.runs import folder
    from residual.runs.environment import check_exact, copy_run, update_environment
    from residual.tasks import task_module

    with joined() as world:
        task = world.on_first(lambda: folder.task_of(run))
        environment = world.on_first(lambda: read_json_object(run / "environment.json"))
        result = run / "result.json"
        if finished := world.on_first(lambda: read_json(result) if result.exists() else None):
            notify(f"{run} is finished; no step is left to take")
            print_result(run, finished, as_json)
            return
        if not out:
            with folder.writing(run):
                pass  # refuse a run that another process works on, before reading the data
        config = resumed_config(environment, device, threads, precision)
        if not inexact:
            check_exact(run, environment, config)
        source, pictures = data_of_run(run, environment, workers, data, root)
        module = task_module(task)
        recipe = module.read_recipe(run)
        target = world.on_first(lambda: copy_run(run, out)) if out else run
        with folder.writing(target):
            world.on_first(lambda: update_environment(target, environment, source, config))
        progress = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
        run_training(target, recipe.steps, module, pictures, progress)


def data_of_run(
    run: Path,
    environment: dict[str, Any],
    workers: int,
    name: str | None = None,
    root: Path | None = None,
) -> tuple[dict[str, str], Any]:
    """The location of a run's data, which may be another than before, and the data. Raises
    ValueError for other data, and FileNotFoundError."""
    from residual.data.sources import data_source
    from residual.runs import folder
    from residual.runs.environment import check_data, existing_data
    from residual.tasks import task_module

    task, stored = folder.task_of(run), environment["data"]
    source = data_source(name or existing_data(run, stored["where"]), root or Path(stored["root"]))
    classes = tuple(read_json(run / "classes.json")) if task == "detection" else None
    data = load_data(task, task_module(task).read_recipe(run), source, workers, classes)
    check_data(run, environment, data)
    return source, data


def resumed_config(
    environment: dict[str, Any], device: str | None, threads: int | None, precision: str | None
) -> "ComputeConfig":
    """The compute configuration of a run, with what the command line changes."""
    from residual.device import ComputeConfig

    stored = ComputeConfig(**environment["setting"])
    config = compute_config(
        device or stored.device.partition(":")[0],
        stored.threads if threads is None else threads,
        precision or stored.precision,
        stored.deterministic,
    )
    kept = {key: getattr(stored, key) for key in ("channels_last", "compile", "at_once")}
    return replace(config, **kept)


def run_training(
    run: Path, steps: int, task: "TaskModule", data: Any, options: ProgressOptions
) -> None:
    """Take the steps that remain of a run, show them, and print how it ended."""
    from residual.distributed import current_world

    record = tensorboard_writer(run) if options.tensorboard and current_world().rank == 0 else None
    result = with_progress(run.name, steps, partial(task.advance, run, data), options, record)
    print_result(run, result, options.as_json)


def print_result(run: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print how a run ended."""
    recipe = result["recipe"]
    steps = result.get("steps_taken", recipe["steps"])
    if as_json:
        keys = ("seen", "ap", "wrong_top1", "error_top1", "weights_sha256")
        values = {key: result[key] for key in keys if key in result}
        print(json_text({"run": str(run), "step": steps} | values))
        return
    if recipe.get("task") == "detection":
        print(f"{recipe['network']} after {steps:,} steps, on {recipe['test_split']}:")
        print(format_precision(result))
        notify(*(f"{sentence}; nothing is found on it" for sentence in result["damaged"]))
    else:
        print(
            f"{recipe['network']} after {steps:,} steps on {result['data']['name']}: "
            f"{result['error_top1']:.2f} % error, {result['wrong_top1']:,} of {result['seen']:,} "
            f"{result['data']['split']} images wrong, one view each"
        )
    print(f"{run} has it; see: residual report {run}")


def format_precision(result: dict[str, Any]) -> str:
    """A table of average precision in percent."""
    from residual.tasks.detection.metrics import MEASURES

    ap, testing = result["ap"], result["testing"]
    title = [" + ".join(result["networks"]), *["with box refinement"] * testing["refinement"]]
    title += [f"at sides {', '.join(map(str, testing['scales']))}"] if testing["scales"] else []
    widths = {name: max(8, len(name) + 2) for name in ap["AP50-area"]["classes"]}
    lines = [
        f"{', '.join(title)} on {result['data']['name']}: {ap['pictures']:,} pictures, "
        f"{ap['objects']:,} objects, {ap['detections']:,} boxes found, "
        f"{result['pictures_per_second']:.1f} pictures/s",
        f"average precision, %{'mean':>12}"
        + "".join(f"{name:>{width}}" for name, width in widths.items()),
    ]
    rows = {name: ap[name] for name in MEASURES}
    if ap["difficult"]:
        rows |= {f"{name}, difficult too": ap["difficult counted"][name] for name in MEASURES}

    def cell(percent: float | None) -> str:
        return "-" if percent is None else f"{percent:.2f}"  # a class without objects has no AP

    for name, row in rows.items():
        cells = (f"{cell(row['classes'][label]):>{width}}" for label, width in widths.items())
        lines.append(f"{name:<20}{cell(row['mean']):>10}{''.join(cells)}")
    return "\n".join(lines)
