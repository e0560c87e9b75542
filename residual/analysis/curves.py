"""Error against iterations in the style of Fig. 1, 4 and 6, from a run's log or result."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby, pairwise
from math import ceil, log10
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from residual.storage import write_atomic

Point = tuple[int, float]  # step, error in percent
Band = tuple[int, float, float]  # step, lowest and highest error in percent
Line = dict[str, Any]

MAX_POINTS = 400  # more training points than this are averaged in bins of steps
DEPTH_COLOURS = {  # those of Fig. 1, 4, 6 and 7, a little darker for print
    "18": "#1b87b8",
    "20": "#c28f00",
    "32": "#1b87b8",
    "34": "#c1272d",
    "44": "#3d9440",
    "56": "#c1272d",
    "110": "#111111",
    "1202": "#7d4a9e",
}
COLOURS = ("#1b5e9b", "#c1272d", "#3d9440", "#c28f00", "#7d4a9e", "#111111", "#1b9e9e", "#a65628")
STYLE: dict[Any, Any] = {  # matplotlib ships this Times-like face; outlines are equal everywhere
    "font.sans-serif": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "svg.fonttype": "path",
    "svg.hashsalt": "residual",
}


@dataclass(frozen=True)
class Curve:
    """Training and test errors of one network."""

    label: str  # also the key of its colour: the paper's if it contains a depth of the paper
    training: Sequence[Point]
    test: Sequence[Point]
    bin_width: int = 0  # steps that a training point averages; 0: points are as logged
    bands: Sequence[Band] = ()  # around the errors, for several seeds


def curve_from_log(label: str, lines: Iterable[Line]) -> Curve:
    """The curve in the lines of a log, or in the `curve` of a result.

    The later of two lines of one step counts. More than `MAX_POINTS` training points are averaged
    in bins, from the `wrong` and `seen` counts of their lines; lines without counts never are.
    """
    lines = list(lines)
    training = {line["step"]: line for line in lines if "train_error" in line}
    test = {line["step"]: line["test_error"] for line in lines if "test_error" in line}
    points, width = average_bins([training[step] for step in sorted(training)])
    return Curve(label, points, sorted(test.items()), width)


def average_bins(lines: Sequence[Line]) -> tuple[list[Point], int]:
    """Training points of lines sorted by step, and the width of a bin in steps (0: no bins)."""
    counted = all("wrong" in line and "seen" in line for line in lines)
    if len(lines) <= MAX_POINTS or not counted:
        return [(line["step"], line["train_error"]) for line in lines], 0
    width = round_up(lines[-1]["step"] / MAX_POINTS)
    points = []
    for _, bin_ in groupby(lines, lambda line: (line["step"] - 1) // width):
        group = list(bin_)
        wrong, images = (sum(line[key] for line in group) for key in ("wrong", "seen"))
        points.append((group[-1]["step"], 100 * wrong / images))
    return points, width


def round_up(number: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least a number."""
    decade: int = 10 ** int(log10(max(1.0, number)))
    return next(n * decade for n in (1, 2, 5, 10) if n * decade >= number)


def palette(keys: Iterable[str]) -> dict[str, str]:
    """A colour for each key: the paper's for the depth in it, or others if two would be equal."""
    distinct = list(dict.fromkeys(keys))
    depths = [re.search(r"\d+", key) for key in distinct]
    colours = [DEPTH_COLOURS.get(depth.group()) if depth else None for depth in depths]
    if None in colours or len(set(colours)) < len(colours):
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(distinct))]
    return {key: str(colour) for key, colour in zip(distinct, colours, strict=True)}


def draw_curves(
    axes: Axes, curves: Sequence[Curve], top: float | None = None, split: str = "test"
) -> None:
    """Draw training errors as thin lines and test errors as bold ones, labelled at their ends.

    The error axis ends at `top` percent; by default at 20, as in the paper, or at a higher multiple
    of 20 that contains all ends. `split` names the images of the bold lines.
    """
    last = max((step for curve in curves for step, _ in (*curve.training, *curve.test)), default=1)
    unit = 10_000 if last >= 10_000 else 1
    colours = palette(curve.label for curve in curves)
    for curve in curves:
        for points, width in ((curve.training, 0.8), (curve.test, 2.0)):
            axes.plot(
                [step / unit for step, _ in points],
                [error for _, error in points],
                color=colours[curve.label],
                linewidth=width,
                marker="o" if len(points) == 1 else "",
                markersize=4,
            )
        if curve.bands:
            steps, low, high = zip(*curve.bands, strict=True)
            x = [step / unit for step in steps]
            axes.fill_between(x, low, high, color=colours[curve.label], alpha=0.2, linewidth=0)
    style_axes(axes)
    ends = [(c, (c.test or c.training)[-1][1]) for c in curves if c.test or c.training]
    worst = max((error for _, error in ends), default=0.0)
    top = top or (20.0 if worst <= 20 else min(100.0, 20.0 * ceil(worst * 1.2 / 20)))
    axes.set(xlim=(0, last / unit), ylim=(0, top), ylabel="error (%)")
    axes.yaxis.set_major_locator(MultipleLocator(5 if top <= 20 else 10))
    axes.set_xlabel("iterations (1e4)" if unit > 1 else "iterations")
    if unit == 1:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    label_ends(axes, [(curve.label, error, colours[curve.label]) for curve, error in ends])
    draw_legend(axes, curves, split)


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write (label, error, colour) right of the axes; an arrow marks an error beyond the axis."""
    top = axes.get_ylim()[1]
    inches = axes.get_window_extent().height / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    gap = top * 11 / (72 * inches)  # 11 points, a line of text
    heights = spread([error for _, error, _ in ends], gap, top)
    for (label, error, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            label + (" ↑" if error > top else ""),
            xy=(1, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=colour,
            annotation_clip=False,
            parse_math=False,
        )


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Heights in the same order, moved as little as needed to be `gap` apart and at most `top`."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [min(height, top) for height in heights]
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    ceiling = top
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def draw_legend(axes: Axes, curves: Sequence[Curve], split: str) -> None:
    """Explain thin and bold lines, and over how many steps a thin line is averaged."""
    widths = sorted({curve.bin_width for curve in curves if curve.bin_width})
    averaged = f" (mean of {' or '.join(f'{n:,}' for n in widths)} steps)" if widths else ""
    lines = []
    if any(curve.training for curve in curves):
        lines.append(Line2D([], [], color="0.3", linewidth=0.8, label=f"training{averaged}"))
    if any(curve.test for curve in curves):
        lines.append(Line2D([], [], color="0.3", linewidth=2.0, label=split))
    if lines:
        axes.legend(handles=lines, frameon=False, fontsize=9, loc="upper right")


def style_axes(axes: Axes) -> None:
    """Left and bottom spines only, with faint horizontal grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, width=0.6)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg; equal figures give equal bytes at any time."""
    paths = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        for kind, omitted in (("png", ["Software"]), ("svg", ["Date", "Creator"])):
            content = BytesIO()
            figure.savefig(content, format=kind, dpi=200, metadata=dict.fromkeys(omitted))
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            write_atomic(paths[-1], content.getvalue())
    return paths
