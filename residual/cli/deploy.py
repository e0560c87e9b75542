"""The commands that put a trained network to use: `predict` and `export`."""

import json
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Annotated, Any

import typer

from residual.cli.options import Device, Exact, Json, Threads, opened, setting_of, wrong_usage

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


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
    from residual.deployment.engine import engine as engine_of
    from residual.deployment.prediction import answers

    how = setting_of(device, threads, precision, False)
    how.apply()
    pictures = list(named(images))
    net = opened(path).placed(how)
    with wrong_usage():
        answering = engine_of(net, engine if precision == "float32" else "torch", how.threads)
    found, failed = [], False
    with how.autocast():
        for answer in answers(net, pictures, top, answering):
            found.append(answer)
            if "error" in answer:
                failed = True
                typer.echo(f"residual: {answer['error']}", err=True)
            elif not as_json:
                print(in_words(answer), flush=True)
    if as_json:
        print(json.dumps(found))
    if failed:
        raise typer.Exit(1)


def in_words(answer: dict[str, Any]) -> str:
    labels = ", ".join(f"{x['label']} {100 * x['probability']:.1f} %" for x in answer["labels"])
    return f"{answer['image']}: {labels}"


def named(words: list[str]) -> Iterator[Path]:
    """The pictures that words name: files, all in a folder and below it, a pattern, or a list on
    stdin. Raises FileNotFoundError where a folder or a pattern holds none."""
    for word in words:
        path = Path(word)
        if word == "-":
            yield from (Path(line.strip()) for line in sys.stdin if line.strip())
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS)
            if not inside:
                raise FileNotFoundError(f"{path} holds no pictures")
            yield from inside
        elif not path.exists() and any(sign in word for sign in "*?["):
            fitting = [Path(each) for each in sorted(glob(word, recursive=True))]  # noqa: PTH207
            if not fitting:
                raise FileNotFoundError(f"no picture fits {word}")
            yield from fitting
        else:
            yield path


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
) -> None:
    """Write a trained network for use elsewhere; an ONNX model is checked against the network.

    Example: residual export runs/resnet50-1 --format onnx --out resnet50.onnx
    """
    from residual.deployment import export as exporting

    if form not in ("onnx", "safetensors", "torchvision"):
        raise typer.BadParameter(f"no format {form!r}; there are onnx, safetensors, torchvision")
    if preprocessing not in ("inside", "outside"):
        raise typer.BadParameter(f"preprocessing is inside or outside, not {preprocessing!r}")
    if out.exists():
        raise FileExistsError(f"{out} exists already; give another name as --out")
    setting_of("cpu", threads, "float32", False).apply()
    trained = opened(path)
    if form == "onnx":
        found = exporting.to_onnx(trained, out, preprocessing == "inside")
        print(
            f"checked on {len(exporting.BATCHES)} batches of other sizes: the same labels, "
            f"probabilities at most {found.apart:.1e} apart"
        )
        for side, speed in found.images_per_second.items():
            print(f"  {side:<12}{speed:>9.1f} images/s")
    elif form == "torchvision":
        exporting.to_torchvision(trained, out)
        print(f"{out.with_suffix('.json')}: labels and preprocessing")
    else:
        exporting.to_safetensors(trained, out)
    print(f"{out}: {trained.network} as {form}")
