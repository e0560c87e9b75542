"""The command `export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from residual.cli.models import print_table
from residual.cli.options import Json, Threads, compute_config, load_detectors, load_trained
from residual.storage import json_text

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
    path: Annotated[Path, typer.Argument(help="A run, or a file of weights.")],
    out: Annotated[Path, typer.Option(help="The file to write, e.g. resnet50.onnx.")],
    form: Annotated[
        str, typer.Option("--format", help="onnx, safetensors or torchvision.")
    ] = "onnx",
    preprocessing: Annotated[
        str, typer.Option(help="inside the ONNX model (8-bit input of any size) or outside.")
    ] = "inside",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Export a trained network as ONNX or safetensors.

    An ONNX model is checked against the network. That of a detector reads a picture of any size
    and returns boxes, scores and labels.

    Example: residual export runs/resnet50-1 --format onnx --out resnet50.onnx
    """
    from residual.export import classifier, detector_check
    from residual.runs.folder import is_detection

    check_usage(form, preprocessing, out)
    config = compute_config("cpu", threads, "float32", False)
    detection, rows = is_detection(path), list[dict[str, Any]]()
    if detection and form != "onnx":
        raise typer.BadParameter(f"a detector is written as onnx, not as {form}")
    if detection and preprocessing == "outside":
        raise typer.BadParameter("a detector's preprocessing is inside, so that boxes fit pictures")
    with config.activate():
        if detection:
            (detector,) = load_detectors([path])
            network, rows = detector.network, detector_check.write_onnx(detector, out)
        else:
            trained = load_trained(path)
            network = trained.network
            if form == "onnx":
                rows = classifier.write_onnx(trained, out, preprocessing == "inside")
            else:
                classifier.write_weights(trained, out, torchvision=form == "torchvision")
    if as_json:
        print(json_text({"file": str(out), "format": form, "network": network, "parity": rows}))
        return
    if rows:
        print_parity(rows, detection)
    subject, labels = (f"a detector on {network}", "classes") if detection else (network, "labels")
    print(f"{out}: {subject} as {form}, with its {labels} and its preprocessing")


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
