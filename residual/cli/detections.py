"""The commands that put detectors to use: `detect evaluate` and `detect predict`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import (
    BoxFrame,
    BoxUnit,
    Deterministic,
    Device,
    Exact,
    Json,
    Threads,
    Workers,
    setting_of,
    wrong_usage,
)
from residual.cli.progress import joined
from residual.storage import json_text, read_json

if TYPE_CHECKING:
    from residual.device import ComputeConfig
    from residual.tasks.detection.inference import Detect
    from residual.tasks.detection.load import TrainedDetector
    from residual.tasks.detection.recipe import Testing

    Finding = tuple[Detect, tuple[str, ...]]

Detectors = Annotated[list[Path], typer.Argument(help="Runs of detectors, or checkpoints.")]
Refine = Annotated[
    bool, typer.Option("--refine", help="Look again where boxes are, and let them vote (Table 9).")
]
Multiscale = Annotated[
    bool,
    typer.Option(
        "--multiscale",
        help="Look at five scales, two for each region (Table 9).",
    ),
]


def in_words(result: dict[str, Any]) -> str:
    """Average precision as a person reads it."""
    found, data = result["ap"], result["data"]
    names, asked = " + ".join(result["networks"]), result["testing"]
    ways = ["with box refinement"] * asked["refinement"]
    ways += [f"at sides {', '.join(map(str, asked['scales']))}"] if asked["scales"] else []
    heads = list(found["AP50-area"]["classes"])
    lines = [
        f"{', '.join([names, *ways])} on {data['name']}: {found['pictures']:,} pictures, "
        f"{found['objects']:,} objects, {found['detections']:,} boxes found, "
        f"{result['pictures_per_second']:.1f} pictures/s",
        f"average precision, %{'mean':>12}" + "".join(f"{head:>{width(head)}}" for head in heads),
    ]
    rows = {name: found[name] for name in MEASURES}
    if found["difficult"]:
        rows |= {f"{name}, difficult too": found["difficult counted"][name] for name in MEASURES}
    for name, row in rows.items():
        numbers = "".join(f"{shown(row['classes'][head]):>{width(head)}}" for head in heads)
        lines.append(f"{name:<20}{shown(row['mean']):>10}{numbers}")
    return "\n".join(lines)


MEASURES = ("AP50-11pt", "AP50-area", "AP[.5:.95]")


def width(head: str) -> int:
    return max(8, len(head) + 2)


def shown(percent: float | None) -> str:
    """A class without objects has no average precision."""
    return "-" if percent is None else f"{percent:.2f}"


def testing_of(refine: bool, multiscale: bool, shorter: int) -> "Testing":
    """How detectors are asked; scales in proportion to the paper's for 600 pixels."""
    from residual.tasks.detection.recipe import Testing, scaled

    return Testing(refinement=refine, scales=scaled(shorter) if multiscale else ())


def opened(paths: list[Path]) -> "list[TrainedDetector]":
    """Detectors; what is to be known about them is said."""
    from residual.tasks.detection.load import load

    nets = [load(path) for path in paths]
    for notice in (each for net in nets for each in net.notices):
        typer.echo(f"residual: {notice}; the checkpoint before it is used", err=True)
    return nets


def evaluate(
    paths: Detectors,
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder as in training; by default the run's.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="A split of the data; by default the recipe's test split.")
    ] = None,
    refine: Refine = False,
    multiscale: Multiscale = False,
    bad_boxes: Annotated[
        str | None, typer.Option("--bad-boxes", help="error or skip; by default as in training.")
    ] = None,
    box_frame: BoxFrame = None,
    box_unit: BoxUnit = None,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Exact = "float32",
    deterministic: Deterministic = False,
    as_json: Json = False,
) -> None:
    """Print the average precision of a detector, or of several as an ensemble.

    Example: residual detect evaluate runs/resnet101-1 --split 07test --refine
    """
    from residual.cli.progress import counting
    from residual.tasks.detection.datasets import load
    from residual.tasks.detection.evaluate import EvalOptions
    from residual.tasks.detection.evaluate import evaluate as evaluate_detectors

    with joined() as world:
        how = setting_of(device, threads, precision, deterministic)
        nets = opened(paths)
        recipe = nets[0].recipe
        where = data or data_of(paths[0])
        chosen = split or recipe.test_split
        given = {"bad_boxes": bad_boxes, "box_frame": box_frame, "box_unit": box_unit}
        words = {field: word for field, word in given.items() if word}
        with wrong_usage():
            reading = replace(recipe.reading, **words)
        scenes = load(where, chosen, nets[0].classes, reading)
        refuse_other_division(paths[0], chosen, [each.name for each in scenes.examples])
        testing = testing_of(refine, multiscale, recipe.shorter)
        with counting("looking at pictures") as progress:
            work = EvalOptions(how, workers, progress if world.rank == 0 else None, world)
            result = evaluate_detectors(nets, scenes, testing, work)
        if world.rank == 0:
            for sentence in scenes.notices:
                typer.echo(f"residual: {sentence}", err=True)
            for sentence in result["damaged"]:
                typer.echo(f"residual: {sentence}; nothing is found on it", err=True)
            print(json_text(result) if as_json else in_words(result))


def refuse_other_division(run: Path, split: str, pictures: list[str]) -> None:
    """Raises ValueError where a split that was divided for a run would be divided otherwise now."""
    file = run / "split.json"
    then = read_json(file).get(split) if file.is_file() else None
    if then is not None and sorted(then) != sorted(pictures):
        raise ValueError(
            f"the pictures of {split} are not those of {file}: others lie in the folder now, and "
            f"some of {split} may have been learned from"
        )


def data_of(path: Path) -> Path:
    """The data that a run was trained on."""
    from residual.runs.resume import data_there

    if not (path / "environment.json").exists():
        raise typer.BadParameter(f"{path} is no run; say which data to take with --data")
    return Path(data_there(path, str(read_json(path / "environment.json")["data"]["where"])))


def predict(
    path: Annotated[
        Path, typer.Argument(help="A detector's run, a checkpoint, or an exported .onnx file.")
    ],
    images: Annotated[
        list[str], typer.Argument(help="Pictures, folders, patterns like '*.jpg'; - reads a list.")
    ],
    least: Annotated[
        float, typer.Option("--score", min=0, max=1, help="Objects of at least this score.")
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option(help="A folder for pictures with boxes; none without it.")
    ] = None,
    refine: Refine = False,
    multiscale: Multiscale = False,
    device: Device = "auto",
    threads: Threads = 0,
    precision: Exact = "float32",
    as_json: Json = False,
) -> None:
    """Find objects on pictures: print them, and draw them with --out.

    Example: residual detect predict runs/resnet101-1 street.jpg --out found
    """
    from residual.cli.export import image_paths, print_answers
    from residual.tasks.detection.inference import predict as predict_images

    onnx = path.suffix == ".onnx"
    how = setting_of("cpu" if onnx and device == "auto" else device, threads, precision, False)
    pictures = image_paths(images)
    finding = exported if onnx else of_run
    find, classes = finding(path, least, (refine, multiscale), how)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"{out} is no folder; name one for the pictures with --out")
        out.mkdir(parents=True, exist_ok=True)
    if print_answers(predict_images(find, classes, pictures, least, out), as_json, one_picture):
        raise typer.Exit(1)


def of_run(path: Path, least: float, more: tuple[bool, bool], how: "ComputeConfig") -> "Finding":
    """What finds objects of at least this score by a run, and their classes; more: refinement, and
    multi-scale."""
    from residual.tasks.detection.inference import file_detector

    nets = opened([path])
    testing = testing_of(*more, nets[0].recipe.shorter)
    find = file_detector(nets, replace(testing, least=min(least, testing.least)), how)
    return find, nets[0].classes


def exported(path: Path, least: float, more: tuple[bool, bool], how: "ComputeConfig") -> "Finding":
    """The same by an exported detector."""
    from residual.export.detector_check import read

    if any(more) or how.device != "cpu" or how.precision != "float32":
        raise typer.BadParameter(
            "an exported detector looks once, at one scale, on the processor and in float32; for "
            "more, ask the run"
        )
    model = read(path, how.threads)
    if least < model.testing.least:
        raise typer.BadParameter(
            f"{path} finds objects of scores above {model.testing.least:g}; for lower ones, ask "
            f"the run"
        )
    return model.find, model.classes


def one_picture(answer: dict[str, Any]) -> str:
    lines = [f"{answer['image']}: {len(answer['objects'])} objects"]
    for each in answer["objects"]:
        left, top, right, bottom = (f"{side:.0f}" for side in each["box"])
        where = f"from {left}, {top} to {right}, {bottom}"
        lines.append(f"  {each['label']} {100 * each['score']:.1f} % {where}")
    if "drawing" in answer:
        lines.append(f"  drawn in {answer['drawing']}")
    return "\n".join(lines)
