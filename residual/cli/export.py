"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.evaluate import pictures_of
from residual.cli.models import print_table
from residual.cli.options import (
    Json,
    Root,
    Threads,
    compute_config,
    data_of,
    load_detectors,
    load_trained,
)
from residual.cli.progress import counting
from residual.storage import DEFAULT_ROOT, json_text

if TYPE_CHECKING:
    from residual.export.quantization import Pictures
    from residual.runs.load import Trained

SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "torchvision": ".safetensors"}
PARITY = (
    "batch|pictures|labels|probabilities apart|torch|ONNX Runtime",
    "{batch}|{height}x{width}|the same|{apart:.1e}|{torch_ms:.1f} ms/picture|"
    "{onnxruntime_ms:.1f} ms/picture",
)
DETECTOR_PARITY = (
    "picture|regions|probabilities apart|boxes apart|found|by both|torch|ONNX Runtime",
    "{height}x{width}|{regions}|{apart:.1e}|{pixels:.1e} pixels|{found}|{same}|"
    "{torch_ms:.0f} ms|{onnxruntime_ms:.0f} ms",
)


def export(
    path: Annotated[Path, typer.Argument(help="A run, or weights: a file or a public name.")],
    out: Annotated[Path, typer.Option(help="The file to write, e.g. resnet50.onnx.")],
    form: Annotated[
        str, typer.Option("--format", help="onnx, safetensors or torchvision.")
    ] = "onnx",
    preprocessing: Annotated[
        str, typer.Option(help="inside the ONNX model (8-bit input of any size) or outside.")
    ] = "inside",
    int8: Annotated[
        bool, typer.Option("--int8", help="Eight-bit weights and activations, in onnx.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(help="Data whose training pictures calibrate --int8; default: the run's."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="Points that --int8 may cost; default: 0.5."),
    ] = None,
    root: Root = DEFAULT_ROOT,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Export a trained network as ONNX or safetensors.

    An ONNX model is checked against the network. That of a detector reads a picture of any size
    and returns boxes, scores and labels. With --int8 the error is measured before and after.

    Example: residual export runs/resnet50-1 --format onnx --out resnet50.onnx
    """
    from residual.runs.environment import check_split
    from residual.runs.folder import is_detection

    check_usage(form, preprocessing, out)
    config = compute_config("cpu", threads, "float32")
    detection, inside = is_detection(path), preprocessing == "inside"
    if detection and form != "onnx":
        raise typer.BadParameter(f"a detector is written as onnx, not as {form}")
    if detection and not inside:
        raise typer.BadParameter("a detector's preprocessing is inside, so that boxes fit pictures")
    for option, value in (("--calibration", calibration), ("--max-drop", max_drop)):
        if value is not None and not int8:
            raise typer.BadParameter(f"{option} is for --int8")
    if int8 and form != "onnx":
        raise typer.BadParameter(f"--int8 is for onnx; {form} holds float32 weights")
    source = data_of(path, calibration, root, "--calibration") if int8 else None
    if source:
        check_split(path, source[0])
    trained = load_detectors([path])[0] if detection else load_trained(path)
    with config.activate():
        if source:
            points = 0.5 if max_drop is None else max_drop
            result = export_int8(trained, out, inside, source, points)
        else:
            result = {"parity": export_float32(trained, out, form, inside)}
    if as_json:
        values = {"file": str(out), "format": form, "network": trained.network}
        print(json_text({**values, **result}))
        return
    if result["parity"]:
        print_parity(result["parity"], detection)
    if int8:
        print_comparison(result)
    subject, labels = trained.network, "labels"
    if detection:
        subject, labels = f"a detector on {trained.network}", "classes"
    eight = " in eight bits" if int8 else ""
    print(f"{out}: {subject} as {form}{eight}, with its {labels} and its preprocessing")


def export_float32(trained: "Trained", out: Path, form: str, inside: bool) -> list[dict[str, Any]]:
    """Write a file -> the comparison of an ONNX model with the network."""
    from residual.export import classifier, detector_check
    from residual.tasks.detection.load import TrainedDetector

    if isinstance(trained, TrainedDetector):
        return detector_check.write_onnx(trained, out)
    if form == "onnx":
        return classifier.write_onnx(trained, out, inside)
    classifier.write_weights(trained, out, torchvision=form == "torchvision")
    return []


def export_int8(
    trained: "Trained", out: Path, inside: bool, source: tuple[str, Path], max_drop: float
) -> dict[str, Any]:
    """Write an ONNX model in eight bits -> the comparisons of the float32 model with the network
    and with the eight-bit one."""
    import torch

    from residual.export import classifier, detector_check
    from residual.export.quantization import write_int8
    from residual.tasks.detection.load import TrainedDetector
    from residual.tasks.detection.recipe import Testing

    pictures = calibration_pictures(trained, inside, source)
    if isinstance(trained, TrainedDetector):
        model, rows = detector_check.checked_model(trained, Testing())
    else:
        model, rows = classifier.checked_model(trained, inside)
    row = write_int8(model, pictures, out, max_drop, torch.get_num_threads(), counting)
    return {"parity": rows, **row}


def calibration_pictures(trained: "Trained", inside: bool, source: tuple[str, Path]) -> "Pictures":
    """The pictures of a calibration and of a comparison."""
    from residual.export.calibration import classifier_pictures, detector_pictures
    from residual.tasks import refuse_boxes
    from residual.tasks.detection.load import TrainedDetector

    name, root = source
    if isinstance(trained, TrainedDetector):
        if name in ("digits", "cifar10"):
            raise ValueError(f"a detector is calibrated on a VOC or COCO folder, not on {name}")
        return detector_pictures(trained, Path(name).expanduser())
    refuse_boxes(name)
    return classifier_pictures(trained, pictures_of(Path(), name, root, trained, 2), inside)


def check_usage(form: str, preprocessing: str, out: Path) -> None:
    """Raises for a format, an option or a file name that cannot be used."""
    if form not in SUFFIXES:
        raise typer.BadParameter(f"no format {form!r}; there are {', '.join(SUFFIXES)}")
    if preprocessing not in ("inside", "outside"):
        raise typer.BadParameter(f"preprocessing is inside or outside, not {preprocessing!r}")
    if form != "onnx" and preprocessing == "outside":
        raise typer.BadParameter(f"--preprocessing is for onnx; {form} holds weights alone")
    if out.suffix != SUFFIXES[form]:
        raise typer.BadParameter(f"{form} is written to a file whose name ends in {SUFFIXES[form]}")
    if out.exists():
        raise FileExistsError(f"{out} exists already; give another name as --out")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {out}: no folder {out.parent}")


def print_parity(rows: list[dict[str, Any]], detection: bool) -> None:
    """Print the comparison with the network: a row for each batch, or each picture."""
    heads, cells = DETECTOR_PARITY if detection else PARITY
    print_table(heads.split("|"), [cells.format(**row).split("|") for row in rows])
    if any(row["same"] < row["found"] for row in rows if detection):
        print(
            "If both find fewer boxes, some regions have nearly equal scores, and rounding "
            "decides between them; each step gives equal results on equal numbers."
        )


def print_comparison(result: dict[str, Any]) -> None:
    """Print the comparison of the float32 model with the eight-bit one."""
    data = result["evaluation"]
    measure = "ap" if "ap_int8" in result else "error"
    rows = [
        [
            name,
            f"{result[f'{measure}_{name}']:.2f} %",
            f"{result[f'images_per_second_{name}']:,.1f}",
            f"{result[f'bytes_{name}'] / 1e6:,.2f} MB",
        ]
        for name in ("float32", "int8")
    ]
    name = data["measure"] if measure == "ap" else measure
    heads = ["precision", name, "images/s", "size"]
    print_table(heads, rows)
    print(
        f"calibrated on {result['calibration']['pictures']:,} training pictures of {data['data']}, "
        f"compared on {data['pictures']:,} others ({data['split']})"
    )
