"""The commands of `residual detect`: boxes around objects (Section 4.3)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.detections import format_result
from residual.cli.options import (
    CACHE,
    BoxFrame,
    BoxUnit,
    Deterministic,
    Device,
    Exact,
    Json,
    Root,
    Threads,
    Workers,
    setting_of,
    wrong_usage,
)
from residual.cli.progress import Advance, ProgressOptions, joined, run_training
from residual.cli.train import Minutes, Tensorboard, beginning_of, new_run, restarted
from residual.storage import json_text, read_json
from residual.tasks.detection.datasets import DetectionData

if TYPE_CHECKING:
    from residual.runs.load import Trained
    from residual.tasks.detection.recipe import Recipe

Boxes = Annotated[Path, typer.Option("--data", help="A folder of PASCAL VOC's form, or of COCO's.")]
Context = Annotated[
    bool, typer.Option("--context", help="The whole picture beside each region (Table 9).")
]


def train(
    network: Annotated[str, typer.Argument(help="resnet18 to resnet152, vgg16 or vgg19.")],
    data: Boxes,
    recipe: Annotated[
        str,
        typer.Option(
            help="voc07, voc07-alternating, voc07+12, voc07++12, coco, scratch; auto: by the data."
        ),
    ] = "auto",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Another budget; drops keep their proportions.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipe; may be repeated.")
    ] = None,
    shorter_side: Annotated[
        int | None,
        typer.Option(min=16, help="Pixels of a picture's shorter side: 600; anchors go with it."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Start, order, mirrors and samples.")] = 0,
    weights: Annotated[
        str | None,
        typer.Option(help="Begin with these: a run, a file, or e.g. resnet50.IMAGENET1K_V2."),
    ] = None,
    context: Context = False,
    bad_boxes: Annotated[
        str | None, typer.Option("--bad-boxes", help="error or skip: boxes that cannot be.")
    ] = None,
    box_frame: BoxFrame = None,
    box_unit: BoxUnit = None,
    bad_images: Annotated[
        str | None, typer.Option("--bad-images", help="error or skip: damaged pictures.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/<network>-<n>.")
    ] = None,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Root = CACHE,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Exact = "float32",
    deterministic: Deterministic = False,
    as_json: Json = False,
) -> None:
    """Train Faster R-CNN on a network of the paper.

    Example: residual detect train resnet101 --data VOCdevkit --weights resnet101.safetensors
    """
    from residual.tasks.detection.datasets import annotation_format
    from residual.tasks.detection.train import (
        begin,
        check,
        check_effects,
        from_weights,
        load,
        with_splits,
    )

    sort = annotation_format(data)
    words = [f"shorter={shorter_side}"] if shorter_side else []
    given = {"bad_boxes": bad_boxes, "bad_images": bad_images}
    given |= {"box_frame": box_frame, "box_unit": box_unit}
    words += [f"{field}={word}" for field, word in given.items() if word]
    words += ["context=true"] if context else []
    words += set_ or []
    chosen = recipe_of(network, recipe, sort, steps, seed, words)
    usual = chosen.train_split, chosen.test_split
    chosen = with_splits(chosen, data, {word.partition("=")[0] for word in words})
    with joined() as world:
        how = setting_of(device, threads, precision, deterministic)
        beginning = world.on_first(lambda: begun_with(weights, root))
        if beginning is not None:
            chosen = from_weights(chosen, beginning)
        check(chosen, how)
        check_effects(chosen, recipe_of(network, recipe, sort, steps, seed, []))
        own = world.on_first(lambda: new_run(out, chosen))
        pictures = load(data, chosen)
        if (chosen.train_split, chosen.test_split) != usual and world.rank == 0:
            typer.echo(f"residual: {in_splits(pictures, chosen)}", err=True)
        told(pictures, chosen, world.rank)
        where = {"where": str(data.resolve()), "root": str(root.expanduser().resolve())}

        def made() -> Path:
            if restarted() and own and (own / "recipe.json").exists():
                return own
            return begin(own, chosen, pictures, where, how, beginning)

        run = world.on_first(made)
        care = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
        run_training(run, chosen.steps, of_detector(run, pictures), care, finished)


def begun_with(weights: str | None, root: Path) -> "Trained | None":
    """The weights that a training begins with: a network's, or a detector's of other data."""
    from residual.runs.folder import is_detection
    from residual.tasks.detection.load import load

    if weights is not None and is_detection(Path(weights)):
        return load(Path(weights))
    return beginning_of(weights, root)


def again(
    run: Path, where: dict[str, str], workers: int
) -> "tuple[int, DetectionData, Callable[[Path], Advance]]":
    """Of a run its steps, its data, and how it goes on."""
    from residual.tasks.detection.load import recipe_of as recipe_in
    from residual.tasks.detection.train import load

    recipe, classes = recipe_in(run), tuple(read_json(run / "classes.json"))
    pictures = load(Path(where["where"]), recipe, classes)
    return recipe.steps, pictures, lambda own: of_detector(own, pictures)


def of_detector(run: Path, pictures: "DetectionData") -> Advance:
    """The steps of a detector's run."""
    from residual.tasks.detection.train import advance

    return lambda watch: advance(run, pictures, watch)


def recipe_of(
    network: str, name: str, sort: str, steps: int | None, seed: int, assignments: list[str]
) -> "Recipe":
    """The recipe that the command line asks for. What it cannot mean is a wrong command line."""
    from residual.tasks.detection.recipe import parsed, with_steps
    from residual.tasks.detection.train import recipe_for

    with wrong_usage():
        recipe = recipe_for(network, name, sort)
        if steps is not None:
            recipe = with_steps(recipe, steps)
        changes: dict[str, Any] = dict(map(parsed, assignments))
        return replace(recipe, **{"seed": seed} | in_proportion(recipe, changes) | changes)


def in_proportion(recipe: "Recipe", changes: dict[str, Any]) -> dict[str, Any]:
    """What else is measured in resized pixels, where another shorter side is asked for."""
    if "shorter" not in changes:
        return {}

    def scaled(side: int) -> int:
        return max(1, side * int(changes["shorter"]) // recipe.shorter)

    return {
        "longest": scaled(recipe.longest),
        "scales": tuple(map(scaled, recipe.scales)),
    }


def told(pictures: "DetectionData", recipe: "Recipe", rank: int) -> None:
    """What was left out of the data, and what about it does not go with the recipe."""
    from residual.tasks.detection.loader import median_side

    side, least = median_side(pictures.train, recipe), min(recipe.scales)
    if rank == 0 and side < least / 2:
        typer.echo(
            f"residual: half of the objects are less than {side:.0f} pixels wide and high, and the "
            f"smallest anchors have {least}: say --set scales=... with smaller ones",
            err=True,
        )
    for scenes in (pictures.train, pictures.test):
        for sentence in scenes.skipped if rank == 0 else ():
            typer.echo(f"residual: {sentence}; it is left out", err=True)
        for sentence in scenes.notices if rank == 0 else ():
            typer.echo(f"residual: {sentence}", err=True)


def in_splits(pictures: "DetectionData", recipe: "Recipe") -> str:
    """Which splits were taken in place of the recipe's usual ones."""
    parts = {recipe.train_split: pictures.train, recipe.test_split: pictures.test}
    first, second = (f"{name} ({len(own.examples):,} pictures)" for name, own in parts.items())
    return f"{first} is learned from, and {second} is tested on"


def finished(run: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print how a run ended."""
    if as_json:
        keys = ("seen", "ap", "weights_sha256")
        told = {"run": str(run), "step": result["recipe"]["steps"]}
        print(json_text(told | {key: result[key] for key in keys}))
        return
    recipe = result["recipe"]
    print(f"{recipe['network']} after {recipe['steps']:,} steps, on {recipe['test_split']}:")
    print(format_result(result))
    for sentence in result["damaged"]:
        typer.echo(f"residual: {sentence}; nothing is found on it", err=True)
    print(f"{run} has it; see: residual report {run}")
