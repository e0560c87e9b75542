"""The commands `predict` and `explain`."""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import Device, Exact, Json, Model, Threads, compute_config, load_trained
from residual.cli.progress import notify
from residual.storage import display_name, json_text

if TYPE_CHECKING:
    from residual.device import ComputeConfig
    from residual.export.predict import Classifier

Images = Annotated[
    list[str], typer.Argument(help="Pictures, folders, patterns like '*.jpg'; - reads a list.")
]


def predict(
    path: Model,
    images: Images,
    top: Annotated[int, typer.Option(min=1, help="Number of labels per picture.")] = 5,
    engine: Annotated[
        str, typer.Option(help="onnxruntime or torch; auto: the faster one.")
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
    from residual.export.predict import answers

    if engine not in ENGINES:
        raise typer.BadParameter(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    if engine == "onnxruntime" and precision != "float32":
        raise typer.BadParameter("the engine onnxruntime computes in float32")
    if path.suffix == ".onnx" and device == "auto":
        device = "cpu"
    config = compute_config(device, threads, precision)
    pictures = image_paths(images)
    with config.activate(), config.autocast():
        model = load_classifier(path, engine, config)
        print_answers(answers(model, pictures, top), as_json, format_labels)


def load_classifier(path: Path, engine: str, config: "ComputeConfig") -> "Classifier":
    """The classifier of a run, a file of weights or an exported model, which runs in ONNX Runtime
    on the CPU: other options are a wrong usage then."""
    from residual.export import predict
    from residual.export.engine import engine as create_engine
    from residual.export.onnx_file import open_file

    if path.suffix != ".onnx":
        name = engine if config.precision == "float32" else "torch"
        chosen = partial(create_engine, name=name, threads=config.threads)
        return predict.classifier(load_trained(path).placed(config), chosen)
    if engine == "torch" or config.device != "cpu" or config.precision != "float32":
        raise typer.BadParameter("an .onnx file runs in ONNX Runtime on the CPU, as it is")
    return predict.exported_classifier(open_file(path, config.threads))


def print_answers(
    answers: Iterable[dict[str, Any]],
    as_json: bool,
    format_answer: Callable[[dict[str, Any]], str],
) -> None:
    """Print answers as they come, or all as JSON; with an error, the exit status is 1."""
    printed, failed = [], False
    for answer in answers:
        if "error" in answer:
            failed = True
            notify(answer["error"])
        elif not as_json:
            print(format_answer(answer), flush=True)
        if as_json:
            printed.append(answer)
    if as_json:
        print(json_text(printed))
    if failed:
        raise typer.Exit(1)


def format_labels(answer: dict[str, Any]) -> str:
    """The labels and probabilities of one image."""
    labels = ", ".join(f"{x['label']} {100 * x['probability']:.1f} %" for x in answer["labels"])
    return f"{display_name(answer['image'])}: {labels}"


def explain(
    path: Annotated[Path, typer.Argument(help="A run, or weights: a file or a public name.")],
    images: Images,
    out: Annotated[Path, typer.Option(help="A folder for the pictures with their maps.")],
    class_name: Annotated[
        str | None, typer.Option("--class", help="Label; default: the most probable.")
    ] = None,
    device: Device = "auto",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Draw class activation maps (CAM or Grad-CAM) over pictures.

    Example: residual explain runs/resnet50-1 cat.jpg --out maps --class tabby
    """
    from residual.analysis.explain import class_names, explain_files

    config = compute_config(device, threads, "float32")
    paths = image_paths(images)
    trained = load_trained(path).placed(config)
    class_names(trained, class_name)  # an unknown one is refused before a folder is made
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {out}: {error.strerror}") from None
    with config.activate():
        answers = explain_files(trained, paths, class_name, out)
        print_answers(answers, as_json, format_explanation)


def format_explanation(answer: dict[str, Any]) -> str:
    """The class, its probability and the drawing of one image."""
    label = f"{answer['label']} {100 * answer['probability']:.1f} %, {answer['method']}"
    drawing = display_name(answer["drawing"])
    return f"{display_name(answer['image'])}: {label} drawn in {drawing}"


def image_paths(words: list[str]) -> Iterator[Path]:
    """The pictures that words name: files, all in a folder and below it, a pattern, or a list on
    stdin, which is read as it comes. Raises FileNotFoundError for a word without pictures."""
    from residual.storage import iterate_list

    paths: list[Iterable[Path]] = [
        map(Path, iterate_list(sys.stdin.buffer)) if word == "-" else expand_word(word)
        for word in words
    ]
    return chain.from_iterable(paths)


def expand_word(word: str) -> list[Path]:
    """The pictures of a folder or a pattern, or else the path itself, even if it does not exist."""
    from residual.data.folder_index import IgnoredFiles, iterate_images

    path = Path(word)
    if path.is_dir():
        ignored = IgnoredFiles()
        paths = sorted(path / image for image in iterate_images(path, path, ignored))
        if ignored.unreadable:
            raise ignored.unreadable[0]
        if not paths:
            raise FileNotFoundError(f"{display_name(path)} holds no pictures")
        return paths
    if not path.exists() and any(sign in word for sign in "*?["):
        paths = [Path(name) for name in sorted(glob(word, recursive=True))]  # noqa: PTH207
        if not paths:
            raise FileNotFoundError(f"no picture fits {display_name(word)}")
        return paths
    return [path]
