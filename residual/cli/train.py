"""The commands `train` and `resume`."""

import os
from collections.abc import Callable
from dataclasses import replace
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
    data_of,
    loaded,
    opened,
    setting_of,
    wrong_usage,
)
from residual.cli.progress import (
    Advance,
    ProgressOptions,
    finished,
    joined,
    of_classes,
    run_training,
)
from residual.storage import read_json

if TYPE_CHECKING:
    from residual.data.datasets import Data
    from residual.device import ComputeConfig
    from residual.runs.load import Trained
    from residual.tasks.classification.recipe import Recipe
    from residual.tasks.detection import recipe as detection

DETECTOR = "fasterrcnn-"  # before the name of the network that a detector is made of
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

    FitNet-19 learns from a Maxout network, in two stages, on which its row of Table 6 rests:
    residual train maxout --data cifar10 --out TEACHER;
    residual train fitnet19 --data cifar10 --recipe fitnet-hint --teacher TEACHER --out HINT;
    residual train fitnet19 --data cifar10 --recipe fitnet-distilled --teacher TEACHER --weights
    HINT.
    """
    from residual.device import training_config
    from residual.tasks.classification.checks import check_effects
    from residual.tasks.classification.distillation import check_teacher, load_teacher, with_teacher
    from residual.tasks.classification.train import found_again, from_weights

    name = data or "digits"
    if network.startswith(DETECTOR):
        of_classes_alone = {"--teacher": teacher, "--balance": balance, "--test-curve": test_curve}
        train_detector(
            of_classes_alone,
            network=network.removeprefix(DETECTOR), data=Path(name), recipe=recipe, steps=steps,
            set_=set_, seed=seed, weights=weights, bad_images=bad_images, out=out,
            checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard, root=root,
            device=device, threads=threads, workers=workers, deterministic=deterministic,
            precision="float32" if precision == "auto" else precision, as_json=as_json,
        )  # fmt: skip
        return
    assignments = [f"balance={balance}"] if balance else []
    assignments += [f"bad_images={bad_images}"] if bad_images else []
    usual = usual_recipe(network, name, recipe, steps)
    chosen = recipe_of(usual, seed, [*assignments, *(set_ or [])])
    with joined() as world:
        beginning = world.on_first(lambda: beginning_of(weights, root))
        if beginning is not None:
            chosen = from_weights(chosen, beginning)
        expert = world.on_first(lambda: load_teacher(teacher) if teacher else None)
        chosen = with_teacher(chosen, expert)
        with wrong_usage():
            how = training_config(device, threads, precision, deterministic)
        own = world.on_first(lambda: new_run(out, chosen))
        pictures = pictures_for(chosen, name, root, workers)
        check_effects(chosen, usual, pictures)
        where = found_again(name, root)
        if teacher and expert:
            check_teacher(expert, chosen, pictures.classes)
            where["teacher"] = str(teacher.resolve())
        rest = (chosen, pictures, where, how, test_curve, beginning)
        run = world.on_first(lambda: begun(own, *rest))
        care = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
        run_training(run, chosen.steps, of_classes(run, pictures), care)


def train_detector(of_classes_alone: dict[str, Any], **options: Any) -> None:
    """The same as `residual detect train`. Some options have a meaning for classes alone."""
    from residual.cli import detect

    with wrong_usage():
        for option, value in of_classes_alone.items():
            if value:
                raise ValueError(f"{option} is for networks that tell classes apart, not detectors")
    detect.train(**options)


def new_run(out: Path | None, recipe: "Recipe | detection.Recipe") -> Path | None:
    """The folder for a run; None for the first free name. A run that is there already is gone on
    with only where torchrun starts the same command again after a failure."""
    from residual.runs import folder
    from residual.training.recipe import to_json

    if restarted():
        return out or folder.latest(to_json(recipe), folder.RUNS)
    if out:
        folder.refuse_held(out)
        folder.refuse_taken(out)
    return out


def restarted() -> bool:
    """Whether torchrun starts the same command again after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def begun(run: Path | None, *rest: Any) -> Path:
    """Make the run, unless a first attempt of the same job has made it."""
    from residual.tasks.classification.train import begin

    if restarted() and run and (run / "recipe.json").exists():
        return run
    return begin(run, *rest)


def beginning_of(weights: str | None, root: Path) -> "Trained | None":
    """The weights that a training begins with, fetched where they have a public name."""
    if weights is None:
        return None
    from residual.weights.convert import find_or_download

    return opened(find_or_download(weights, root.expanduser()), body=True)


def pictures_for(recipe: "Recipe", name: str, root: Path, workers: int) -> "Data":
    """The data, as the network of a recipe looks at it."""
    from residual.models.registry import model_spec
    from residual.tasks.classification.train import takes_photographs
    from residual.tasks.detection.datasets import detect_format

    if Path(name).is_dir() and detect_format(Path(name)):
        raise ValueError(f"{name} holds boxes around objects; detectors: residual detect train")
    size, whole = model_spec(recipe.network).input_size, takes_photographs(recipe.network)
    return loaded(name, root, size, workers, whole)


def usual_recipe(network: str, data: str, name: str, steps: int | None) -> "Recipe":
    """The recipe before fields of it are set. What it cannot mean is a wrong command line."""
    from residual.tasks.classification.recipe import with_steps
    from residual.tasks.classification.train import recipe_for

    with wrong_usage():
        recipe = recipe_for(network, data, name)
        return recipe if steps is None else with_steps(recipe, steps)


def recipe_of(usual: "Recipe", seed: int, assignments: list[str]) -> "Recipe":
    """The recipe that the command line asks for. What it cannot mean is a wrong command line."""
    from residual.tasks.classification.recipe import changed, check_average, parsed

    with wrong_usage():
        recipe = changed(usual, {"seed": seed} | dict(map(parsed, assignments)))
        check_average(recipe)
        return recipe


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
    from residual.cli import detect
    from residual.runs import folder
    from residual.runs.folder import is_detection
    from residual.runs.resume import copied, data_there, exact, known_of, move, same_data
    from residual.tasks.classification.train import found_again

    with joined() as world:
        known = world.on_first(lambda: known_of(run))
        detector = world.on_first(lambda: is_detection(run))
        tell = detect.finished if detector else finished
        if result := world.on_first(lambda: result_of(run)):
            typer.echo(f"residual: {run} is finished; no step is left to take", err=True)
            tell(run, result, as_json)
            return
        if not out:
            with folder.writing(run):
                pass  # said before the data is read, where another process works on it
        how = setting_again(known, device, threads, precision)
        if not inexact:
            exact(run, known, how)
        where = found_again(
            data or data_there(run, known["data"]["where"]), root or Path(known["data"]["root"])
        )
        again = detect.again if detector else classifier_again
        steps, pictures, advance = again(run, where, workers)
        same_data(run, known, pictures)
        run = world.on_first(lambda: copied(run, out)) if out else run
        with folder.writing(run):
            world.on_first(lambda: move(run, known, where, how))
        care = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
        run_training(run, steps, advance(run), care, tell)


def setting_again(
    known: dict[str, Any], device: str | None, threads: int | None, precision: str | None
) -> "ComputeConfig":
    """How a run is computed on, where it is not to be computed otherwise."""
    from residual.device import ComputeConfig

    before = ComputeConfig(**known["setting"])
    now = setting_of(
        device or before.device.partition(":")[0],
        before.threads if threads is None else threads,
        precision or before.precision,
        before.deterministic,
    )
    same = {key: getattr(before, key) for key in ("channels_last", "compile", "at_once")}
    return replace(now, **same)


def classifier_again(
    run: Path, where: dict[str, str], workers: int
) -> "tuple[int, Data, Callable[[Path], Advance]]":
    """Of a run its steps, its data, and how it goes on."""
    from residual.tasks.classification.load import recipe_of as stored_recipe

    recipe = stored_recipe(run)
    pictures = pictures_for(recipe, where["where"], Path(where["root"]), workers)
    return recipe.steps, pictures, lambda own: of_classes(own, pictures)


def result_of(run: Path) -> dict[str, Any] | None:
    """Of a finished run."""
    return read_json(run / "result.json") if (run / "result.json").exists() else None


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
    """Measure true batch-norm statistics over training images, in place of the moving averages.

    Example: residual statistics runs/resnet50-1 --out resnet50.safetensors
    """
    import torch

    from residual.data.datasets import apply_split
    from residual.data.loader import LoaderOptions
    from residual.tasks.classification.checks import check
    from residual.tasks.classification.load import save
    from residual.tasks.classification.loop import precise_batchnorm
    from residual.tasks.classification.train import recipe_for

    if out.exists():
        raise FileExistsError(f"{out} exists already; give another name as --out")
    with joined() as world:
        how = setting_of(device, threads, precision, False)
        trained = opened(path)
        name, place = data_of(path, data, root)
        recipe = trained.recipe or recipe_for(trained.network, name)
        pictures = pictures_for(recipe, name, place, workers)
        check(replace(recipe, frozen=False), pictures)
        pictures = apply_split(pictures, recipe.split)
        net = how.prepare(trained.net)
        options = LoaderOptions(torch.device(how.device), workers, world)
        with how.activate():
            seen = precise_batchnorm(
                net, recipe, pictures, trained.preprocessing, options, how, images
            )
        world.on_first(lambda: save(trained, out, {"true_statistics": seen}))
        print(f"{out}: {trained.network}, with statistics of {seen:,} training images")
