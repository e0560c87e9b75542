"""The commands that measure a trained network: `evaluate`, `report` and `responses`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from residual.cli.options import (
    Data_,
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
    load_pictures,
    load_trained,
    usage_errors,
)
from residual.cli.progress import counting, joined, notify
from residual.cli.runs import data_of_run
from residual.storage import DEFAULT_ROOT, display_name, json_text, read_json_object

if TYPE_CHECKING:
    from residual.data.datasets import Data
    from residual.data.folder_index import Split
    from residual.runs.load import Trained


def pictures_of(path: Path, name: str | None, root: Path, net: "Trained", workers: int) -> "Data":
    """The data named on the command line, or else the run's, preprocessed for the network."""
    view, (source, place) = net.preprocessing, data_of(path, name, root)
    return load_pictures(source, place, view.size[0], workers, view.shorter is not None)


def parse_sides(text: str | None) -> list[int] | None:
    """`224,256` as numbers. Raises ValueError for other words."""
    if text is None:
        return None
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise ValueError(f"{text!r} is no list of shorter sides in pixels, like 224,256,384")
    return [int(word) for word in text.split(",")]


def evaluate(
    paths: Annotated[list[Path], typer.Argument(help="Runs, or files of weights.")],
    data: Data_ = None,
    split: Annotated[
        str, typer.Option(help="test, val or train; auto: test, or else val.")
    ] = "auto",
    protocol: Annotated[
        str,
        typer.Option(
            help="1crop: the single view, of photographs the centre; 10crop: corners and centre; "
            "multiscale: whole photographs in several sizes. Those of the networks that the paper "
            "compares with: 144crop (GoogLeNet, BN-inception), 150crop and dense (VGG), multiview "
            "(PReLU-net)."
        ),
    ] = "1crop",
    average: Annotated[
        str, typer.Option(help="probabilities or scores, over views and networks.")
    ] = "probabilities",
    mirror: Annotated[
        bool | None, typer.Option(help="Add mirrored views; default: as in the protocol.")
    ] = None,
    sides: Annotated[
        str | None, typer.Option(help="Shorter sides of photographs in pixels, like 224,256.")
    ] = None,
    micro_batch: Annotated[
        int,
        typer.Option(min=0, help="Pictures per forward pass, fewer if large; 0: automatic."),
    ] = 0,
    root: Root = DEFAULT_ROOT,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Exact = "float32",
    deterministic: Deterministic = False,
    as_json: Json = False,
) -> None:
    """Print the error of a network or an ensemble by a protocol.

    Example: residual evaluate runs/resnet50-1 --protocol 10crop
    """
    from residual.runs.environment import check_split
    from residual.tasks.classification.evaluate import evaluate_ensemble
    from residual.tasks.classification.inference import InferenceOptions
    from residual.tasks.classification.protocols import get_protocol

    if split not in ("auto", "train", "val", "test"):
        raise typer.BadParameter(f"no split {split!r}; there are auto, test, val and train")
    with usage_errors():
        views = get_protocol(protocol, average, mirror, parse_sides(sides))
    chosen = None if split == "auto" else cast("Split", split)
    with joined() as world:
        config = compute_config(device, threads, precision, deterministic)
        nets = [load_trained(path) for path in paths]
        for run in paths if chosen != "train" else ():
            check_split(run, data_of(paths[0], data, root)[0])
        pictures = pictures_of(paths[0], data, root, nets[0], workers)
        with counting("evaluating", world.rank == 0) as progress:
            options = InferenceOptions(config, workers, micro_batch, progress, world)
            record, damaged, _ = evaluate_ensemble(nets, pictures, chosen, views, options)
        if world.rank == 0:
            names = map(display_name, damaged)
            notify(*(f"{name} is damaged and counts as wrong" for name in names))
            print(json_text(record) if as_json else in_words(record))


def in_words(record: dict[str, Any]) -> str:
    """An evaluation as a person reads it."""
    name = record.get("network") or " + ".join(record["networks"])
    text = (
        f"{name} on {record['data']['name']} ({record['data']['split']}), {views_in_words(record)}:"
        f" {record['error_top1']:.2f} % error, "
        f"{record['wrong_top1']:,} of {record['seen']:,} images wrong"
    )
    if record["error_top5"] is not None:
        text += f"; top-5 error {record['error_top5']:.2f} %"
    if record["damaged"]:
        text += f"; {record['damaged']} damaged pictures count as wrong"
    speed = record["images_per_second"]
    return f"{text}; {speed:,.{0 if speed >= 10 else 1}f} images/s, {record['precision']}"


def views_in_words(record: dict[str, Any]) -> str:
    """The protocol and, for photographs, its views."""
    if record["resize"] is None:
        return str(record["protocol"])
    crops = "whole pictures" if record["crop"] is None else "{}x{} crops".format(*record["crop"])
    text = f"{crops} at shorter side {', '.join(map(str, record['resize']))}"
    if record["mirror"]:
        text += ", with their mirrors"
    if record["views"] > 1 or "networks" in record:
        text += f", {record['averaged']} averaged"
    return f"{record['protocol']} ({text})"


def report(
    runs: Annotated[list[Path], typer.Argument(help="The runs' folders.")],
    mistakes: Annotated[
        bool,
        typer.Option(help="Evaluate the test images again, to show mistakes and calibration."),
    ] = True,
    data: Data_ = None,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
) -> None:
    """Write a page on runs: curves, mistakes, calibration.

    Example: residual report runs/resnet20-1
    """
    from residual.analysis.report import compare
    from residual.analysis.report import report as write_report
    from residual.runs.folder import is_detection

    config = compute_config(device, threads, "float32")
    for run in runs:
        mistakes_of_run = {}
        try:
            if mistakes and (run / "result.json").is_file():
                mistakes_of_run = find_mistakes(run, config, workers, data)
        except (OSError, ValueError) as error:
            notify(f"{error}; the report is without mistakes")
        print(write_report(run, mistakes_of_run), flush=True)
    if len(runs) > 1:
        first = next((run for run in runs if not is_detection(run)), runs[0])
        for path in compare(runs, first / "report" / "together"):
            print(path)


def find_mistakes(run: Path, config: Any, workers: int, data: str | None) -> dict[str, Any]:
    """The mistakes of a finished run on its test images."""
    from residual.analysis import mistakes
    from residual.runs.folder import is_detection
    from residual.tasks.classification.inference import InferenceOptions
    from residual.tasks.detection.evaluate import EvalOptions

    _, pictures = data_of_run(run, read_json_object(run / "environment.json"), workers, data)
    with counting("looking for mistakes") as progress:
        if is_detection(run):
            options = EvalOptions(config, workers, progress)
            return mistakes.detector_mistakes(load_detectors([run])[0], pictures.test, options)
        inference = InferenceOptions(config, workers, progress=progress)
        return mistakes.classifier_mistakes(load_trained(run), pictures, inference)


def responses(
    run: Annotated[Path, typer.Argument(help="A run, or weights: a file or a public name.")],
    data: Data_ = None,
    root: Root = DEFAULT_ROOT,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Measure and draw the responses of 3x3 layers (Figure 7).

    Example: residual responses runs/resnet20-1
    """
    from residual.analysis.curves import save_figure
    from residual.analysis.responses import draw_responses, measure_responses

    config = compute_config(device, threads, "float32")
    net = load_trained(run).placed(config)
    pictures = pictures_of(run, data, root, net, workers)
    values = measure_responses(net, pictures, config)
    if as_json:
        print(json_text({"network": net.network, "responses": values}))
        return
    for layer, value in enumerate(values, start=1):
        print(f"{layer:>4}  {value:.4f}")
    if run.is_dir():
        (run / "report").mkdir(exist_ok=True)
        figure = draw_responses({net.network: values})
        for path in save_figure(figure, run / "report" / "responses"):
            print(path)
