"""The report of a run: one HTML page with its result, curves, class tables and settings."""

import csv
import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from residual.analysis.confusion import ClassScores, class_scores, draw_confusion
from residual.analysis.curves import COLOURS, curve_from_log, draw_curves, save_figure, style_axes
from residual.runs.folder import is_detection, read_log
from residual.storage import damage_errors, read_json, write_atomic
from residual.tasks.classification.load import read_recipe
from residual.tasks.detection.load import read_recipe as read_detection_recipe
from residual.training.recipe import to_json

Log = Sequence[dict[str, Any]]

LOSSES = {  # of Faster R-CNN, by their keys in the log
    "objectness_loss": "proposals: object or not",
    "anchor_loss": "proposals: where",
    "class_loss": "regions: class",
    "box_loss": "regions: where",
}
MAX_POINTS = 100  # of a loss curve
MAX_WEAKEST = 5  # classes that are highlighted


def report(run: Path) -> Path:
    """Write a run's report/ and return its page, report.html, which needs no other file.

    Beside the page are its figures as PNG and SVG and, for a classifier, per-class.csv. Raises
    ValueError if there is no run, or if one of its files is damaged.
    """
    is_detector = is_detection(run)
    recipe = to_json(read_detection_recipe(run) if is_detector else read_recipe(run))
    log, result = read_log(run / "log.jsonl"), read_optional(run / "result.json")
    environment = read_optional(run / "environment.json")
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    last = recipe["steps"] if result else 0
    context = {
        "is_detector": is_detector,
        "title": f"{recipe['network']}: report of {run.resolve().name}",
        "recipe": recipe,
        "result": result,
        "environment": environment,
        "data": result.get("data", environment.get("data", {})),
        "step": max((line["step"] for line in log), default=last),
    }
    if is_detector:
        if log:
            context["curves"] = save_svg(loss_figure(log), folder / "losses")
    else:
        context |= classifier_figures(run, recipe["network"], log, result)
    write_atomic(folder / "report.html", render(context).encode(errors="backslashreplace"))
    return folder / "report.html"


def read_optional(path: Path) -> dict[str, Any]:
    """The content of a JSON file without its format; {} if the run does not have it yet."""
    content = read_json(path) if path.is_file() else {}
    return {key: value for key, value in content.items() if key != "format"}


def classifier_figures(
    run: Path, network: str, log: Log, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Error curves and, of a finished run, the confusion matrix and the scores of each class."""
    context: dict[str, Any] = {}
    folder, split = run / "report", result.get("data", {}).get("split", "test")
    curve = curve_from_log(network, log or result.get("curve", []))
    if curve.training or curve.test:
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        draw_curves(figure.subplots(), [curve], split=split)
        context |= {"curves": save_svg(figure, folder / "curves"), "tested": bool(curve.test)}
    counts = run / "confusion.json"
    with damage_errors(counts):
        matrix = np.array(read_json(counts) if result and counts.is_file() else [], dtype=np.int64)
        if matrix.size and matrix.shape != (len(matrix), len(matrix)):
            raise ValueError(f"a confusion matrix is square, not {matrix.shape}")
    if matrix.any():
        names = read_names(run / "classes.json", len(matrix))
        side = 7.2 if len(matrix) > 10 else 6.0
        figure = Figure(figsize=(side, side), layout="constrained")
        draw_confusion(figure.subplots(), matrix, names)
        context["confusion"] = save_svg(figure, folder / "confusion")
        context["classes"] = rows = class_scores(matrix, names)
        recalls = [row.recall for row in rows if not math.isnan(row.recall)]
        context["balanced"] = sum(recalls) / len(recalls)
        mistaken = sorted((row for row in rows if row.recall < 1), key=lambda row: row.recall)
        context["weakest"] = mistaken[: min(MAX_WEAKEST, max(1, len(recalls) // 3))]
        context["unread"] = max(0, result.get("seen", 0) - int(matrix.sum()))
        write_atomic(folder / "per-class.csv", csv_table(rows))
    return context


def read_names(path: Path, count: int) -> list[str]:
    """The names of the classes. Raises ValueError if they are not so many."""
    with damage_errors(path):
        names = [str(name) for name in read_json(path)]
        if len(names) != count:
            raise ValueError(f"there are {len(names)} names; confusion.json has {count} classes")
    return names


def csv_table(rows: Sequence[ClassScores]) -> bytes:
    """The class table for other programs: rates in percent, empty if undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "images", "answered", "right", "recall", "precision", "f1"])
    for row in rows:
        rates = [percent(rate, "") for rate in (row.recall, row.precision, row.f1)]
        writer.writerow([row.name, row.images, row.answered, row.right, *rates])
    return text.getvalue().encode()


def overlay(runs: Sequence[Path], out: Path) -> list[Path]:
    """Draw the curves of several runs in one figure, OUT.png and OUT.svg.

    A curve is labelled with its network, or with its folder if two runs have the same network.
    """
    networks = [read_recipe(run).network for run in runs]
    distinct = len(set(networks)) == len(networks)
    labels = networks if distinct else [run.resolve().name for run in runs]
    curves = [
        curve_from_log(label, read_log(run / "log.jsonl"), network if distinct else None)
        for label, run, network in zip(labels, runs, networks, strict=True)
    ]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    draw_curves(figure.subplots(), curves)
    return save_figure(figure, out)


def loss_figure(log: Log) -> Figure:
    """The four losses of Faster R-CNN; a point is the mean over several lines of the log."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    width = -(-len(log) // MAX_POINTS)
    bins = [log[i : i + width] for i in range(0, len(log), width)]
    for (key, label), colour in zip(LOSSES.items(), COLOURS, strict=False):
        means = [sum(line[key] for line in lines) / len(lines) for lines in bins]
        steps = [lines[-1]["step"] for lines in bins]
        axes.plot(steps, means, color=colour, linewidth=1.3, label=label)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    style_axes(axes)
    return figure


def save_svg(figure: Figure, stem: Path) -> str:
    """Write a figure as PNG and SVG -> the address of the SVG for a page that contains it."""
    _, svg = save_figure(figure, stem)
    return f"data:image/svg+xml;base64,{b64encode(svg.read_bytes()).decode()}"


def render(context: Mapping[str, Any]) -> str:
    """The page: the template beside this file, which escapes whatever it shows."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = percent
    return templates.get_template("report.html.j2").render(context)


def percent(rate: float, undefined: str = "–") -> str:
    """A rate in [0, 1] in percent; NaN is undefined."""
    return undefined if math.isnan(rate) else f"{100 * rate:.2f}"
