"""The commands `train` and `statistics`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from residual.cli import detect
from residual.cli.options import (
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
from residual.cli.progress import ProgressOptions, joined
from residual.cli.runs import Minutes, Out, Start, Tensorboard, Weights, begin_run
from residual.storage import DEFAULT_ROOT
from residual.tasks import DETECTOR


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
            "fitnet-distilled; auto: by network and data."
        ),
    ] = "auto",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps; drops, warm-up and averaging are scaled."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipe; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed: weights, order, augmentation.")] = 0,
    weights: Weights = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="For fitnet-hint and fitnet-distilled: a finished run of maxout."),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="Class balance: none, sampler, or weights (of the loss).")
    ] = None,
    bad_images: Annotated[
        str | None,
        typer.Option(
            "--bad-images",
            help="error; or skip: replace damaged photographs, at most 0.1 %.",
        ),
    ] = None,
    out: Out = None,
    test_curve: Annotated[
        bool, typer.Option("--test-curve", help="Also evaluate on the test set during training.")
    ] = False,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Root = DEFAULT_ROOT,
    device: Device = "auto",
    threads: Annotated[
        int,
        typer.Option(min=0, help="Processor threads; 0: the fastest number in a short trial."),
    ] = 0,
    workers: Workers = 2,
    precision: Precision = "auto",
    deterministic: Deterministic = False,
    as_json: Json = False,
) -> None:
    """Train a network; by default on the bundled digits.

    Example: residual train resnet20 --data cifar10

    FitNet-19 learns from a finished run of maxout: first with --recipe fitnet-hint --teacher RUN,
    then with --recipe fitnet-distilled --teacher RUN --weights HINT, the run of the first stage.
    """
    from residual.device import training_config
    from residual.tasks.classification.recipe import ClassificationRecipe
    from residual.tasks.classification.train import choose_recipe
    from residual.training.recipe import parse_assignment

    name = data or "digits"
    if network.startswith(DETECTOR):
        only_classifiers = {
            "--teacher": teacher, "--balance": balance, "--test-curve": test_curve,
        }  # fmt: skip
        for option in (option for option, value in only_classifiers.items() if value):
            raise typer.BadParameter(
                f"{option} is for networks that tell classes apart, not detectors"
            )
        detect.train(
            network=network.removeprefix(DETECTOR), data=Path(name), recipe=recipe, steps=steps,
            set_=set_, seed=seed, weights=weights, bad_images=bad_images, out=out,
            checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard, root=root,
            device=device, threads=threads, workers=workers, deterministic=deterministic,
            precision="float32" if precision == "auto" else precision, as_json=as_json,
        )  # fmt: skip
        return
    options = {"balance": balance, "bad_images": bad_images}
    changes: dict[str, Any] = {"seed": seed} | {key: v for key, v in options.items() if v}
    with usage_errors():
        changes |= dict(parse_assignment(ClassificationRecipe, text) for text in set_ or [])
        usual, chosen = choose_recipe(network, name, recipe, steps, changes)
    start = Start(
        name, weights, out, root, ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
    )
    begin_run(
        "classification", chosen, usual, start,
        lambda: training_config(device, threads, precision, deterministic),
        teacher=teacher, test_curve=test_curve,
    )  # fmt: skip


def statistics(
    path: Annotated[Path, typer.Argument(help="A run, or a file of weights.")],
    out: Annotated[Path, typer.Option(help="The file of weights to write.")],
    data: Data_ = None,
    images: Annotated[
        int, typer.Option(min=1, help="Number of training images, at most all.")
    ] = 50_000,
    root: Root = DEFAULT_ROOT,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Exact = "float32",
) -> None:
    """Measure precise batch-norm statistics.

    They are averages over training images, and replace the moving averages.

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
        config = compute_config(device, threads, precision)
        trained = load_trained(path)
        name, place = data_of(path, data, root)
        recipe = trained.recipe or recipe_for(trained.network, name)
        pictures = load_data("classification", recipe, data_source(name, place), workers)
        check(replace(recipe, frozen=False), pictures)
        pictures = apply_split(pictures, recipe.split)
        net = trained.placed(config).net
        options = LoaderOptions(torch.device(config.device), workers, world)
        with config.activate():
            images_used = precise_batchnorm(
                net, recipe, pictures, trained.preprocessing, options, config, images
            )
        world.on_first(lambda: save(trained, out, {"true_statistics": images_used}))
        print(f"{out}: {trained.network}, with statistics of {images_used:,} training images")
