"""The commands of `residual detect`: objects with boxes (Sec. 4.3)."""

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
    Root,
    Threads,
    Workers,
    compute_config,
    data_of,
    load_detectors,
    usage_errors,
)
from residual.cli.predict import Images, image_paths, print_answers
from residual.cli.progress import ProgressOptions, counting, joined, notify
from residual.cli.runs import Minutes, Out, Start, Tensorboard, Weights, begin_run, format_precision
from residual.storage import DEFAULT_ROOT, json_text

if TYPE_CHECKING:
    from residual.device import ComputeConfig
    from residual.tasks.detection.inference import Detect

Refine = Annotated[
    bool, typer.Option("--refine", help="Refine boxes in a second pass, then vote (Table 9).")
]
Multiscale = Annotated[
    bool, typer.Option("--multiscale", help="Test at five scales, two for each region (Table 9).")
]
Boxes = Annotated[Path, typer.Option("--data", help="A folder in PASCAL VOC's or COCO's format.")]


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
        int | None, typer.Option(min=1, help="Training steps; the drops are scaled.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipe; may be repeated.")
    ] = None,
    shorter_side: Annotated[
        int | None,
        typer.Option(min=16, help="Pixels of the shorter side, e.g. 300; scales anchors too."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed: weights, order, flips, samples.")] = 0,
    weights: Weights = None,
    context: Annotated[
        bool, typer.Option("--context", help="Add features of the whole picture (Table 9).")
    ] = False,
    bad_boxes: Annotated[
        str | None, typer.Option("--bad-boxes", help="error or skip: invalid boxes.")
    ] = None,
    box_frame: BoxFrame = None,
    box_unit: BoxUnit = None,
    bad_images: Annotated[
        str | None, typer.Option("--bad-images", help="error or skip: damaged pictures.")
    ] = None,
    out: Out = None,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Root = DEFAULT_ROOT,
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
    from residual.tasks.detection.recipe import DetectionRecipe
    from residual.tasks.detection.train import check_effects, choose_recipe, with_splits
    from residual.training.recipe import parse_assignment

    options = {"shorter": shorter_side, "bad_boxes": bad_boxes, "bad_images": bad_images}
    options |= {"box_frame": box_frame, "box_unit": box_unit, "context": context}
    changes: dict[str, Any] = {"seed": seed} | {key: v for key, v in options.items() if v}
    annotation_format(data)  # refuses other folders, which is not a wrong command line
    with usage_errors():
        changes |= dict(parse_assignment(DetectionRecipe, text) for text in set_ or [])
        usual, chosen = choose_recipe(network, str(data), recipe, steps, changes)
    check_effects(chosen, usual)
    chosen = with_splits(chosen, str(data), changes)
    progress = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
    begin_run(
        "detection", chosen, usual, Start(str(data.resolve()), weights, out, root, progress),
        lambda: compute_config(device, threads, precision, deterministic),
    )  # fmt: skip


def evaluate(
    paths: Annotated[list[Path], typer.Argument(help="Runs of detectors, or checkpoints.")],
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
    """Print the average precision of a detector or an ensemble.

    Example: residual detect evaluate runs/resnet101-1 --split 07test --refine
    """
    from residual.runs.folder import check_division
    from residual.tasks.detection import evaluate as evaluation
    from residual.tasks.detection.datasets import load
    from residual.tasks.detection.recipe import choose_testing

    with joined() as world:
        config = compute_config(device, threads, precision, deterministic)
        detectors = load_detectors(paths)
        recipe = detectors[0].recipe
        folder = Path(data_of(paths[0], str(data) if data else None, DEFAULT_ROOT)[0])
        split = split or recipe.test_split
        words = {"bad_boxes": bad_boxes, "box_frame": box_frame, "box_unit": box_unit}
        changes: dict[str, Any] = {field: word for field, word in words.items() if word}
        with usage_errors():
            reading = replace(recipe.reading, **changes)
        dataset = load(folder, split, detectors[0].classes, reading)
        check_division(paths[0], split, [example.name for example in dataset.examples])
        testing, speaks = choose_testing(recipe, refine, multiscale), world.rank == 0
        with counting("detecting objects", speaks) as progress:
            options = evaluation.EvalOptions(config, workers, progress, world)
            result = evaluation.evaluate(detectors, dataset, testing, options)
        if speaks:
            damaged = (f"{sentence}; nothing is found on it" for sentence in result["damaged"])
            notify(*dataset.notices, *damaged)
            print(json_text(result) if as_json else format_precision(result))


def predict(
    path: Annotated[
        Path, typer.Argument(help="A detector's run, a checkpoint, or an exported .onnx file.")
    ],
    images: Images,
    min_score: Annotated[
        float, typer.Option("--score", min=0, max=1, help="Objects of at least this score.")
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option(help="A folder for pictures with their boxes drawn.")
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
    from residual.tasks.detection import inference
    from residual.tasks.detection.recipe import choose_testing

    onnx = path.suffix == ".onnx"
    config = compute_config("cpu" if onnx and device == "auto" else device, threads, precision)
    paths = image_paths(images)
    if onnx:
        detect, classes = exported_detector(path, min_score, refine or multiscale, config)
    else:
        (detector,) = load_detectors([path])
        testing = choose_testing(detector.recipe, refine, multiscale, min_score)
        detect, classes = inference.file_detector([detector], testing, config), detector.classes
    if out is not None:
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"{out} is no folder; name one for the pictures with --out")
        out.mkdir(parents=True, exist_ok=True)
    answers = inference.predict(detect, classes, paths, min_score, out)
    print_answers(answers, as_json, format_one)


def exported_detector(
    path: Path, min_score: float, refined: bool, config: "ComputeConfig"
) -> "tuple[Detect, tuple[str, ...]]":
    """An ONNX model and its classes. Options that it cannot follow are a wrong usage."""
    from residual.export import detector_check
    from residual.export.onnx_file import open_file

    if refined or config.device != "cpu" or config.precision != "float32":
        raise typer.BadParameter(
            "an exported detector detects at one scale, without refinement, on the CPU and in "
            "float32; for more, use the run"
        )
    file = open_file(path, config.threads)
    detect, classes, testing = detector_check.exported_detector(file)
    if min_score < testing.least:
        raise typer.BadParameter(
            f"{path} finds objects of scores above {testing.least:g}; for lower ones, ask the run"
        )
    return detect, classes


def format_one(answer: dict[str, Any]) -> str:
    """The objects on one image."""
    lines = [f"{answer['image']}: {len(answer['objects'])} objects"]
    for item in answer["objects"]:
        left, top, right, bottom = (f"{side:.0f}" for side in item["box"])
        where = f"from {left}, {top} to {right}, {bottom}"
        lines.append(f"  {item['label']} {100 * item['score']:.1f} % {where}")
    if "drawing" in answer:
        lines.append(f"  drawn in {answer['drawing']}")
    return "\n".join(lines)
