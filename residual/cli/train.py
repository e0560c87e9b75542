"""The commands `train`, `resume` and `statistics`."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import (
    CACHE,
    Data_,
    Deterministic,
    Device,
    Exact,
    Json,
    Precision,
    Root,
    Threads,
    Workers,
    compute_config,
    data_of,
    load_data,
    load_trained,
    usage_errors,
)
from residual.cli.progress import ProgressOptions, joined, run_training
from residual.storage import json_text, read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from residual.device import ComputeConfig
    from residual.runs.load import Trained
    from residual.tasks.classification.recipe import ClassificationRecipe

DETECTOR = "fasterrcnn-"  # prefix of the network's name: train a detector on it
Minutes = Annotated[float, typer.Option(min=0, help="Minutes between two checkpoints.")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard into the run, too.")
]


def train(
    network: Annotated[
        str,
        typer.Argument(
            help="The network's name: see `residual networks`; or fasterrcnn-resnet50 and the like."
        ),
    ],
    data: Data_ = "digits",
    recipe: Annotated[
        str,
        typer.Option(
            help="cifar, cifar-deep, digits, imagenet, modern, finetune, fitnet-hint or "
            "fitnet-distilled; auto goes by network and data."
        ),
    ] = "auto",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Another budget; drops, warm-up and average in proportion."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipe; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Start, order and augmentation.")] = 0,
    weights: Annotated[
        str | None,
        typer.Option(help="Begin with these: a run, a file, or e.g. resnet50.IMAGENET1K_V2."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="For fitnet-hint and fitnet-distilled: a finished run of maxout."),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="none, sampler or weights: what to do for rare classes.")
    ] = None,
    bad_images: Annotated[
        str | None,
        typer.Option(
            "--bad-images",
            help="error, or skip: of photographs, up to 0.1 % that are damaged are replaced.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/<network>-<n>.")
    ] = None,
    test_curve: Annotated[
        bool, typer.Option("--test-curve", help="Look at the test set during training, too.")
    ] = False,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Root = CACHE,
    device: Device = "auto",
    threads: Annotated[
        int,
        typer.Option(
            min=0, help="Processor threads; 0 takes as many as a short trial shows to pay."
        ),
    ] = 0,
    workers: Workers = 2,
    precision: Precision = "auto",
    deterministic: Deterministic = False,
    as_json: Json = False,
) -> None:
    """Train a network of the paper; without options, on the bundled handwritten digits.

    Example: residual train resnet20 --data cifar10

    FitNet-19 learns from a Maxout network in two stages, as its row of Table 6 does:
    residual train maxout --data cifar10 --out TEACHER;
    residual train fitnet19 --data cifar10 --recipe fitnet-hint --teacher TEACHER --out HINT;
    residual train fitnet19 --data cifar10 --recipe fitnet-distilled --teacher TEACHER --weights
    HINT.
    """
    from residual.device import training_config

    name = data or "digits"
    if network.startswith(DETECTOR):
        from residual.cli import detect

        with usage_errors():
            only_classifiers = {
                "--teacher": teacher, "--balance": balance, "--test-curve": test_curve,
            }  # fmt: skip
            for option in (option for option, value in only_classifiers.items() if value):
                raise ValueError(f"{option} is for networks that tell classes apart, not detectors")
        detect.train(
            network=network.removeprefix(DETECTOR), data=Path(name), recipe=recipe, steps=steps,
            set_=set_, seed=seed, weights=weights, bad_images=bad_images, out=out,
            checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard, root=root,
            device=device, threads=threads, workers=workers, deterministic=deterministic,
            precision="float32" if precision == "auto" else precision, as_json=as_json,
        )  # fmt: skip
        return
    assignments = [f"balance={balance}"] if balance else []
    assignments += [f"bad_images={bad_images}"] if bad_images else []
    usual, chosen = recipes(network, name, recipe, steps, seed, [*assignments, *(set_ or [])])
    start = Start(
        name, weights, out, root, ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
    )
    begin_run(
        "classification", chosen, usual, start,
        lambda: training_config(device, threads, precision, deterministic),
        teacher=teacher, test_curve=test_curve,
    )  # fmt: skip


def recipes(
    network: str, data: str, name: str, steps: int | None, seed: int, assignments: list[str]
) -> "tuple[ClassificationRecipe, ClassificationRecipe]":
    """The usual recipe, and the one that the command line asks for."""
    from residual.tasks.classification.recipe import (
        ClassificationRecipe,
        changed,
        check_average,
        with_steps,
    )
    from residual.tasks.classification.train import recipe_for
    from residual.training.recipe import parse_assignment

    with usage_errors():
        usual = recipe_for(network, data, name)
        usual = usual if steps is None else with_steps(usual, steps)
        changes = dict(parse_assignment(ClassificationRecipe, text) for text in assignments)
        chosen = changed(usual, {"seed": seed} | changes)
        check_average(chosen)
        return usual, chosen


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
        for notice in module.notices(recipe, usual, data) if world.rank == 0 else ():
            typer.echo(f"residual: {notice}", err=True)
        module.check_effects(recipe, usual, data)

        def begin() -> Path:
            if restarted() and run and (run / "recipe.json").exists():
                return run
            return module.begin(run, recipe, data, source, config, weights, **options)

        run = world.on_first(begin)
        run_training(run, recipe.steps, module, data, start.progress)


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
        Path | None, typer.Option(help="Go on in a copy of the run, and leave this one as it is.")
    ] = None,
    inexact: Annotated[
        bool, typer.Option("--inexact", help="Go on although versions or the machine differ.")
    ] = False,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Annotated[Path | None, typer.Option(help="Where data sets lie now.")] = None,
    device: Annotated[str | None, typer.Option(help="Another device than before.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Other threads than before.")] = None,
    workers: Workers = 2,
    precision: Annotated[str | None, typer.Option(help="Another precision than before.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with a run where it stopped; it ends exactly as if it had not.

    Example: residual resume runs/resnet20-1
    """
    from residual.data.sources import data_source
    from residual.runs import folder
    from residual.runs.resume import (
        check_data,
        check_exact,
        copy_run,
        existing_data,
        read_environment,
        update_environment,
    )
    from residual.tasks import task_module

    with joined() as world:
        environment = world.on_first(lambda: read_environment(run))
        task = world.on_first(lambda: folder.task_of(run))
        result = run / "result.json"
        if finished := world.on_first(lambda: read_json(result) if result.exists() else None):
            typer.echo(f"residual: {run} is finished; no step is left to take", err=True)
            print_result(run, finished, as_json)
            return
        if not out:
            with folder.writing(run):
                pass  # refuse a run that another process works on, before reading the data
        config = resumed_config(environment, device, threads, precision)
        if not inexact:
            check_exact(run, environment, config)
        source = data_source(
            data or existing_data(run, environment["data"]["where"]),
            root or Path(environment["data"]["root"]),
        )
        module = task_module(task)
        recipe, classes = module.read_recipe(run), tuple(read_json(run / "classes.json"))
        pictures = load_data(task, recipe, source, workers, classes)
        check_data(run, environment, pictures)
        target = world.on_first(lambda: copy_run(run, out)) if out else run
        with folder.writing(target):
            world.on_first(lambda: update_environment(target, environment, source, config))
        progress = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
        run_training(target, recipe.steps, module, pictures, progress)


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
        from residual.cli.detect import format_result

        print(f"{recipe['network']} after {steps:,} steps, on {recipe['test_split']}:")
        print(format_result(result))
        for sentence in result["damaged"]:
            typer.echo(f"residual: {sentence}; nothing is found on it", err=True)
    else:
        print(
            f"{recipe['network']} after {steps:,} steps on {result['data']['name']}: "
            f"{result['error_top1']:.2f} % error, {result['wrong_top1']:,} of {result['seen']:,} "
            f"{result['data']['split']} images wrong, one view each"
        )
    print(f"{run} has it; see: residual report {run}")


def statistics(
    path: Annotated[Path, typer.Argument(help="A run, or a file of weights.")],
    out: Annotated[Path, typer.Option(help="The file of weights to write.")],
    data: Data_ = None,
    images: Annotated[
        int, typer.Option(min=1, help="So many training images, or all, in whole batches.")
    ] = 50_000,
    root: Root = CACHE,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Exact = "float32",
) -> None:
    """Measure precise batch-norm statistics over training images, in place of moving averages.

    Example: residual statistics runs/resnet50-1 --out resnet50.safetensors
    """
    import torch

    from residual.data.datasets import apply_split
    from residual.data.loader import LoaderOptions
    from residual.data.sources import data_source
    from residual.tasks.classification.checks import check
    from residual.tasks.classification.load import save
    from residual.tasks.classification.loop import precise_batchnorm
    from residual.tasks.classification.train import recipe_for

    if out.exists():
        raise FileExistsError(f"{out} exists already; give another name as --out")
    with joined() as world:
        config = compute_config(device, threads, precision, False)
        trained = load_trained(path)
        name, place = data_of(path, data, root)
        recipe = trained.recipe or recipe_for(trained.network, name)
        pictures = load_data("classification", recipe, data_source(name, place), workers)
        check(replace(recipe, frozen=False), pictures)
        pictures = apply_split(pictures, recipe.split)
        net = config.prepare(trained.net)
        options = LoaderOptions(torch.device(config.device), workers, world)
        with config.activate():
            seen = precise_batchnorm(
                net, recipe, pictures, trained.preprocessing, options, config, images
            )
        world.on_first(lambda: save(trained, out, {"true_statistics": seen}))
        print(f"{out}: {trained.network}, with statistics of {seen:,} training images")
