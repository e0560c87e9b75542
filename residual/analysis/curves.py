"""Fig. 1, 4 and 6: error against iterations, in the paper's style, from a run's log or result."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from math import ceil, log10
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from residual.storage import write_whole

Point = tuple[int, float]  # step, error in percent
Line = dict[str, Any]

POINTS = 400  # more training points than this are averaged in bins of steps
DEPTHS = {  # depth: its colour in Fig. 1, 4, 6 and 7, a little darker for print
    "18": "#1b87b8",
    "20": "#c28f00",
    "32": "#1b87b8",
    "34": "#c1272d",
    "44": "#3d9440",
    "56": "#c1272d",
    "110": "#111111",
    "1202": "#7d4a9e",
}
OTHERS = ("#1b5e9b", "#c1272d", "#3d9440", "#c28f00", "#7d4a9e", "#111111", "#1b9e9e", "#a65628")
STYLE: dict[Any, Any] = {  # matplotlib's own Times-like face, as outlines: the same everywhere
    "font.sans-serif": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "svg.fonttype": "path",
    "svg.hashsalt": "residual",
}


@dataclass(frozen=True)
class Curve:
    """How the errors of one network fell."""

    label: str
    colour: str  # curves with the same key have the same colour, the paper's where it names a depth
    training: Sequence[Point]
    test: Sequence[Point]
    mean_of: int = 0  # the steps that a training point is the mean over; 0: as it was logged


def from_curve(label: str, lines: Iterable[Line], colour: str | None = None) -> Curve:
    """The curve in the lines of a log, or in the `curve` of a result.

    Where a step was logged twice, its later line counts. More than `POINTS` training points are
    averaged in bins of a round number of steps, from the wrong and seen counts of their lines;
    `mean_of` says so, and so does the figure. Lines without counts are drawn as they are.
    """
    lines = list(lines)
    training = {line["step"]: line for line in lines if "train_error" in line}
    test = {line["step"]: line["test_error"] for line in lines if "test_error" in line}
    points, mean_of = binned([training[step] for step in sorted(training)])
    return Curve(label, colour or label, points, sorted(test.items()), mean_of)


def binned(lines: Sequence[Line]) -> tuple[list[Point], int]:
    """Training points from lines in the order of their steps, and the width of a bin in steps."""
    counted = all("wrong" in line and "seen" in line for line in lines)
    if len(lines) <= POINTS or not counted:
        return [(line["step"], line["train_error"]) for line in lines], 0
    width = round_number(lines[-1]["step"] / POINTS)
    bins: dict[int, list[Line]] = {}
    for line in lines:
        bins.setdefault((line["step"] - 1) // width, []).append(line)
    return [
        (
            group[-1]["step"],
            100 * sum(line["wrong"] for line in group) / sum(line["seen"] for line in group),
        )
        for group in bins.values()
    ], width


def round_number(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below a number of at least 1."""
    decade: int = 10 ** int(log10(max(1.0, least)))
    return next(n * decade for n in (1, 2, 5, 10) if n * decade >= least)


def palette(keys: Iterable[str]) -> dict[str, str]:
    """A colour for each key: that of the depth it names, or others where two would be alike."""
    distinct = list(dict.fromkeys(keys))
    depths = [re.search(r"\d+", key) for key in distinct]
    colours = [DEPTHS.get(depth.group()) if depth else None for depth in depths]
    if None in colours or len(set(colours)) < len(colours):
        colours = [OTHERS[i % len(OTHERS)] for i in range(len(distinct))]
    return {key: str(colour) for key, colour in zip(distinct, colours, strict=True)}


def draw_curves(
    axes: Axes, curves: Sequence[Curve], top: float | None = None, split: str = "test"
) -> None:
    """Thin lines for training errors, bold ones for test errors, each named at its end.

    The error axis ends at `top` percent: 20, as in the paper, where all curves end below it, else
    as much higher as they need. `split` is the name of the images of the bold lines.
    """
    everything = [point for curve in curves for point in (*curve.training, *curve.test)]
    last = max((step for step, _ in everything), default=1)
    unit = 10_000 if last >= 10_000 else 1
    colours = palette(curve.colour for curve in curves)
    for curve in curves:
        for points, width in ((curve.training, 0.8), (curve.test, 2.0)):
            axes.plot(
                [step / unit for step, _ in points],
                [error for _, error in points],
                color=colours[curve.colour],
                linewidth=width,
                marker="o" if len(points) == 1 else "",
                markersize=4,
            )
    bare(axes)
    axes.set(xlim=(0, last / unit), ylim=(0, top or highest(curves)), ylabel="error (%)")
    axes.yaxis.set_major_locator(MultipleLocator(5 if axes.get_ylim()[1] <= 20 else 10))
    axes.set_xlabel("iterations (1e4)" if unit > 1 else "iterations")
    if unit == 1:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    name_ends(axes, curves, colours)
    explain_lines(axes, curves, split)


def ends(curves: Sequence[Curve]) -> list[tuple[Curve, float]]:
    """Each curve that has a point, and its last error: the test error where there is one."""
    drawn = [(curve, curve.test or curve.training) for curve in curves]
    return [(curve, points[-1][1]) for curve, points in drawn if points]


def highest(curves: Sequence[Curve]) -> float:
    """The end of the error axis in percent: 20 or a higher multiple that holds all ends."""
    worst = max((error for _, error in ends(curves)), default=0.0)
    return 20.0 if worst <= 20 else min(100.0, 20.0 * ceil(worst * 1.2 / 20))


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """The heights, moved as little as needed to be `gap` apart and at most `top`; same order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [min(height, top) for height in heights]
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    ceiling = top
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def name_ends(axes: Axes, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    """The label of each curve to the right of its end; an arrow where the end is off the scale."""
    top = axes.get_ylim()[1]
    inches = axes.get_window_extent().height / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    gap = top * 11 / (72 * inches)  # 11 points, a line of text
    named = ends(curves)
    heights = spread([error for _, error in named], gap, top)
    for (curve, error), height in zip(named, heights, strict=True):
        axes.annotate(
            curve.label + (" ↑" if error > top else ""),
            xy=(1, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=colours[curve.colour],
            annotation_clip=False,
            parse_math=False,
        )


def explain_lines(axes: Axes, curves: Sequence[Curve], split: str) -> None:
    """What thin and bold lines are, and over how many steps a thin line is averaged."""
    bins = sorted({curve.mean_of for curve in curves if curve.mean_of})
    averaged = f" (mean of {' or '.join(f'{steps:,}' for steps in bins)} steps)" if bins else ""
    lines = []
    if any(curve.training for curve in curves):
        lines.append(Line2D([], [], color="0.3", linewidth=0.8, label=f"training{averaged}"))
    if any(curve.test for curve in curves):
        lines.append(Line2D([], [], color="0.3", linewidth=2.0, label=split))
    if lines:
        axes.legend(handles=lines, frameon=False, fontsize=9, loc="upper right")


def bare(axes: Axes) -> None:
    """Two spines, and faint lines to read heights by."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, width=0.6)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg; the same figure gives the same bytes at any time."""
    paths = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        for kind, unsaid in (("png", ["Software"]), ("svg", ["Date", "Creator"])):
            drawn = BytesIO()
            figure.savefig(drawn, format=kind, dpi=200, metadata=dict.fromkeys(unsaid))
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            write_whole(paths[-1], drawn.getvalue())
    return paths
