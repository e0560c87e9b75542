"""The commands `predict` and `export`."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.models import print_table
from residual.cli.options import Device, Exact, Json, Threads, compute_config, load_trained
from residual.storage import display_name, json_text

if TYPE_CHECKING:
    from residual.export import detector_check
    from residual.export.classifier import Parity

ENDS = {"onnx": ".onnx", "safetensors": ".safetensors", "torchvision": ".safetensors"}


def predict(
    path: Annotated[Path, typer.Argument(help="A run, or a file of weights.")],
    images: Annotated[
        list[str], typer.Argument(help="Pictures, folders, patterns like '*.jpg'; - reads a list.")
    ],
    top: Annotated[int, typer.Option(min=1, help="So many labels of each picture.")] = 5,
    engine: Annotated[
        str, typer.Option(help="onnxruntime or torch; auto takes the faster that is installed.")
    ] = "auto",
    device: Device = "auto",
    threads: Threads = 0,
    precision: Exact = "float32",
    as_json: Json = False,
) -> None:
    """Print labels and probabilities of pictures.

    Example: residual predict runs/resnet20-1 cat.jpg pictures/ --top 3
    """
    from residual.export.engine import ENGINES
    from residual.export.engine import engine as create_engine
    from residual.export.predict import answers

    if engine not in ENGINES:
        raise typer.BadParameter(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    if engine == "onnxruntime" and precision != "float32":
        raise typer.BadParameter("the engine onnxruntime computes in float32")
    config = compute_config(device, threads, precision, False)
    pictures = image_paths(images)
    name = engine if precision == "float32" else "torch"
    chosen = partial(create_engine, name=name, threads=config.threads)
    with config.activate(), config.autocast():
        found = answers(load_trained(path).placed(config), pictures, top, chosen)
        failed = print_answers(found, as_json, in_words)
    if failed:
        raise typer.Exit(1)


def print_answers(
    answers: Iterable[dict[str, Any]], as_json: bool, in_words: Callable[[dict[str, Any]], str]
) -> bool:
    """Print answers as they come, or all as JSON -> whether there was an error."""
    found, failed = [], False
    for answer in answers:
        if "error" in answer:
            failed = True
            typer.echo(f"residual: {answer['error']}", err=True)
        elif not as_json:
            print(in_words(answer), flush=True)
        if as_json:
            found.append(answer)
    if as_json:
        print(json_text(found))
    return failed


def in_words(answer: dict[str, Any]) -> str:
    labels = ", ".join(f"{x['label']} {100 * x['probability']:.1f} %" for x in answer["labels"])
    return f"{display_name(answer['image'])}: {labels}"


def image_paths(words: list[str]) -> Iterator[Path]:
    """The pictures that words name: files, all in a folder and below it, a pattern, or a list on
    stdin, which is read as it comes. Raises FileNotFoundError where a word names none."""
    from residual.storage import iterate_list

    given: list[Iterable[Path]] = [
        map(Path, iterate_list(sys.stdin.buffer)) if word == "-" else word_paths(word)
        for word in words
    ]
    return chain.from_iterable(given)


def word_paths(word: str) -> list[Path]:
    """The pictures that one word names. A file that is not there is a picture of that name."""
    from residual.data.folder_index import IgnoredFiles, iterate_images

    path = Path(word)
    if path.is_dir():
        inside = sorted(Path(each.path) for each in iterate_images(path, path, IgnoredFiles()))
        if not inside:
            raise FileNotFoundError(f"{display_name(path)} holds no pictures")
        return inside
    if not path.exists() and any(sign in word for sign in "*?["):
        found = [Path(each) for each in sorted(glob(word, recursive=True))]  # noqa: PTH207
        if not found:
            raise FileNotFoundError(f"no picture fits {display_name(word)}")
        return found
    return [path]


def export(
    path: Annotated[Path, typer.Argument(help="A run, or a file of weights.")],
    out: Annotated[Path, typer.Option(help="The file to write, e.g. resnet50.onnx.")],
    form: Annotated[
        str, typer.Option("--format", help="onnx, safetensors or torchvision.")
    ] = "onnx",
    preprocessing: Annotated[
        str, typer.Option(help="inside: 8-bit pictures of any size go in; or outside. ONNX only.")
    ] = "inside",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Write a trained network for use elsewhere; an ONNX model is checked against the network.

    A detector becomes an ONNX model: a picture of any size in, boxes, scores and labels out.

    Example: residual export runs/resnet50-1 --format onnx --out resnet50.onnx
    """
    from residual.export import classifier as exporting
    from residual.runs.folder import is_detection

    check_usage(form, preprocessing, out)
    config = compute_config("cpu", threads, "float32", False)
    if is_detection(path):
        with config.activate():
            export_detector(path, out, form, preprocessing, as_json)
        return
    trained, found = load_trained(path), []
    with config.activate():
        if form == "onnx":
            found = exporting.write_onnx(trained, out, preprocessing == "inside")
        elif form == "torchvision":
            exporting.write_torchvision(trained, out)
        else:
            exporting.write_safetensors(trained, out)
    if as_json:
        rows = [asdict(row) for row in found]
        said = {"file": str(out), "format": form, "network": trained.network, "parity": rows}
        print(json_text(said))
        return
    if found:
        show_parity(found)
    print(f"{out}: {trained.network} as {form}, with its labels and its preprocessing")


def export_detector(path: Path, out: Path, form: str, preprocessing: str, as_json: bool) -> None:
    """Export a detector."""
    from residual.cli.detect import load_detectors
    from residual.export.detector_check import write_onnx

    if form != "onnx":
        raise typer.BadParameter(f"a detector is written as onnx, not as {form}")
    if preprocessing == "outside":
        raise typer.BadParameter("a detector's preprocessing is inside, so that boxes fit pictures")
    (trained,) = load_detectors([path])
    found, network = write_onnx(trained, out), trained.recipe.network
    if as_json:
        rows = [asdict(row) for row in found]
        print(json_text({"file": str(out), "format": form, "network": network, "parity": rows}))
        return
    show_detector_parity(found)
    print(f"{out}: a detector on {network} as {form}, with its classes and its preprocessing")


def check_usage(form: str, preprocessing: str, out: Path) -> None:
    """Raises for a format, an option or a file name that cannot be used."""
    if form not in ENDS:
        raise typer.BadParameter(f"no format {form!r}; there are {', '.join(ENDS)}")
    if preprocessing not in ("inside", "outside"):
        raise typer.BadParameter(f"preprocessing is inside or outside, not {preprocessing!r}")
    if form != "onnx" and preprocessing == "outside":
        raise typer.BadParameter(f"--preprocessing is for onnx; {form} holds weights alone")
    if out.suffix != ENDS[form]:
        raise typer.BadParameter(f"{form} is written to a file whose name ends in {ENDS[form]}")
    if out.exists():
        raise FileExistsError(f"{out} exists already; give another name as --out")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {out}: no folder {out.parent}")


def show_parity(found: "list[Parity]") -> None:
    """Print the comparison with the network, batch by batch."""
    heads = ["batch", "pictures", "labels", "probabilities apart", "torch", "ONNX Runtime"]
    rows = [
        [
            *(str(row.batch), f"{row.height}x{row.width}", "the same", f"{row.apart:.1e}"),
            *(f"{row.torch_ms:.1f} ms/picture", f"{row.onnxruntime_ms:.1f} ms/picture"),
        ]
        for row in found
    ]
    print_table(heads, rows)


def show_detector_parity(found: "list[detector_check.DetectorParity]") -> None:
    """Print the comparison with the detector, picture by picture."""
    heads = ["picture", "regions", "probabilities apart", "boxes apart", "found", "by both"]
    rows = [
        [
            *(f"{row.height}x{row.width}", str(row.regions), f"{row.apart:.1e}"),
            *(f"{row.pixels:.1e} pixels", str(row.found), str(row.same)),
            *(f"{row.torch_ms:.0f} ms", f"{row.onnxruntime_ms:.0f} ms"),
        ]
        for row in found
    ]
    print_table([*heads, "torch", "ONNX Runtime"], rows)
    if any(row.same < row.found for row in found):
        print(
            "Where fewer are found by both, regions are as good as equal, and the last bit of a "
            "number decides; each step, given the same numbers, is the same."
        )
