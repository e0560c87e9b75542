"""The commands of `residual detect`: boxes around objects (Section 4.3)."""

from pathlib import Path
from typing import Annotated

import typer

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
    compute_config,
    usage_errors,
)
from residual.cli.progress import ProgressOptions
from residual.cli.train import Minutes, Start, Tensorboard, begin_run

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
    from residual.tasks.detection.recipe import DetectionRecipe, changed, with_steps
    from residual.tasks.detection.train import recipe_for, with_splits
    from residual.training.recipe import parse_assignment

    options = {"bad_boxes": bad_boxes, "bad_images": bad_images}
    options |= {"box_frame": box_frame, "box_unit": box_unit}
    assignments = [f"shorter={shorter_side}"] if shorter_side else []
    assignments += [f"{field}={word}" for field, word in options.items() if word]
    assignments += ["context=true"] if context else []
    annotation_format(data)  # refuses other folders, which is not a wrong command line
    with usage_errors():
        usual = recipe_for(network, str(data), recipe)
        usual = usual if steps is None else with_steps(usual, steps)
        texts = [*assignments, *(set_ or [])]
        changes = dict(parse_assignment(DetectionRecipe, text) for text in texts)
        chosen = changed(usual, {"seed": seed} | changes)
    chosen = with_splits(chosen, str(data), changes)
    progress = ProgressOptions(checkpoint_minutes, workers, tensorboard, as_json)
    begin_run(
        "detection", chosen, usual, Start(str(data), weights, out, root, progress),
        lambda: compute_config(device, threads, precision, deterministic),
    )  # fmt: skip
