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

from residual.analysis.calibration import draw_calibration, expected_calibration_error
from residual.analysis.comparison import differing_fields, group_runs, summarize_run
from residual.analysis.confusion import ClassScores, class_scores, draw_confusion
from residual.analysis.curves import COLOURS, curve_from_log, draw_curves, save_figure, style_axes
from residual.runs.folder import is_detection
from residual.storage import damage_errors, read_json, write_atomic

Log = Sequence[dict[str, Any]]

LOSSES = {  # of Faster R-CNN, by their keys in the log
    "objectness_loss": "proposals: object or not",
    "anchor_loss": "proposals: where",
    "class_loss": "regions: class",
    "box_loss": "regions: where",
}
MAX_POINTS = 100  # of a loss curve
MAX_WEAKEST = 5  # classes that are highlighted


def report(run: Path, mistakes: Mapping[str, Any] | None = None) -> Path:
    """Write a run's report/ and return its page, report.html, which needs no other file.

    `mistakes` are those of mistakes.py; without them the page has none. Beside the page are its
    figures as PNG and SVG and, for a classifier, per-class.csv. Raises ValueError if there is no
    run, or if one of its files is damaged.
    """
    summary, mistakes = summarize_run(run), mistakes or {}
    recipe, log, result = (summary[key] for key in ("recipe", "log", "result"))
    is_detector = is_detection(run)
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    last = recipe["steps"] if result else 0
    context = {
        **summary,
        **mistakes,
        "is_detector": is_detector,
        "title": f"{recipe['network']}: report of {summary['name']}",
        "step": max((line["step"] for line in log), default=last),
    }
    if is_detector:
        if log:
            context["curves"] = save_svg(loss_figure(log), folder / "losses")
    else:
        context |= classifier_figures(run, recipe["network"], log, result)
        if "calibration" in mistakes:
            figure = draw_calibration(mistakes["calibration"])
            context["reliability"] = save_svg(figure, folder / "calibration")
            context["calibration_error"] = expected_calibration_error(mistakes["calibration"])
    write_atomic(folder / "report.html", render(context).encode(errors="backslashreplace"))
    return folder / "report.html"


def classifier_figures(
    run: Path, network: str, log: Log, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Error curves and, of a finished run, the confusion matrix and the scores of each class."""
    context: dict[str, Any] = {}
    folder, split = run / "report", result.get("data", {}).get("split", "test")
    curve = curve_from_log(network, log)
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
    """Draw the curves of several classifiers in one figure, OUT.png and OUT.svg.

    Runs that differ in their seeds alone are one curve, with a band. A curve is labelled with its
    network, or with its folders if two curves have the same network.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    draw_curves(figure.subplots(), [group["curve"] for group in group_runs(runs)])
    return save_figure(figure, out)


def compare(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write a page, OUT.html, that compares several runs, and the figures of `overlay`."""
    groups, page = group_runs(runs), out.with_suffix(".html")
    networks = ", ".join(dict.fromkeys(group["runs"][0]["recipe"]["network"] for group in groups))
    classifiers = [run for run in runs if not is_detection(run)]
    figures = overlay(classifiers, out) if classifiers else []
    context = {
        "title": f"{len(runs)} runs compared: {networks}",
        "groups": groups,
        "fields": differing_fields(groups),
        "same_data": len({group["runs"][0]["data"].get("fingerprint") for group in groups}) == 1,
        "curves": svg_address(figures[1]) if figures else "",
    }
    write_atomic(page, render(context).encode(errors="backslashreplace"))
    return [page, *figures]


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
    return svg_address(save_figure(figure, stem)[1])


def svg_address(svg: Path) -> str:
    """An SVG file as an address with its content."""
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
