"""Error against cost, for every network that Tables 3 and 6 compare: a picture of their text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from residual.analysis.curves import bare, save
from residual.models.registry import specify
from residual.reproduction import paper
from residual.reproduction.evaluations import MODELS
from residual.reproduction.experiments import Result, by_network, cost_of
from residual.reproduction.spread import Spread, markdown
from residual.reproduction.table6 import BASELINES
from residual.training.recipe import Recipe

CURVE = False
KEY = "error_top1"  # what a result file must hold
ALONE = "The paper's numbers"  # a page without results of ours
REMARK = (
    "\n\nThe paper's errors are those of Table 6 on CIFAR-10, and of Table 3 on ImageNet, top-5 by "
    "ten crops; ours are top-1 by one view. Costs are computed; classifiers that serve in training "
    "alone are not in them."
)
COLOURS = {"plain": "#b45309", "residual": "#0f5fa6", "compared": "#6b7280"}
SMALL = {BASELINES[name]: error for name, (_, _, error) in paper.TABLE_6_RIVALS.items()} | {
    f"resnet{depth}": error for depth, (error, _) in paper.TABLE_6.items()
}
LARGE = {MODELS[name]: top_5 for name, (_, top_5) in paper.TABLE_3.items()}
AXES = {"multiply-adds": 1, "parameters": 0}  # and which of a network's costs it is


@dataclass(frozen=True)
class Panels:
    """One row of a figure: what the errors are, and which."""

    title: str
    errors: dict[str, float]  # in percent, by network


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """Nothing of its own: what the tables have trained."""
    return []


def shown(results: Sequence[Result]) -> list[Result]:
    """Networks of the tables, and plain ones."""
    return [
        r
        for r in results
        if (own := r["recipe"]["network"]) in SMALL | LARGE or kind(own) == "plain"
    ]


def kind(network: str) -> str:
    """How a network is drawn."""
    spec = specify(network)
    if spec.family == "rival":
        return "compared"
    return "plain" if spec.option == "plain" else "residual"


def ours(results: Sequence[Result]) -> dict[str, float]:
    """The mean error of each network that was trained."""
    of = by_network(results)
    names = sorted({r["recipe"]["network"] for r in results})
    return {name: Spread([r["error_top1"] for r in of(name)]).mean for name in names}


def table(results: Sequence[Result]) -> str:
    """Each network's cost beside its errors; rows that were not run say so."""
    own = ours(results)
    names = dict.fromkeys([*SMALL, *LARGE, *own])
    rows = []
    for name in names:
        parameters, multiply_adds = cost_of(name, specify(name).input_size)
        printed = SMALL.get(name, LARGE.get(name))
        rows.append(
            [
                *(name, f"{parameters / 1e6:.2f}M", f"{multiply_adds / 1e9:.3f}e9"),
                "" if printed is None else f"{printed:.2f}",
                f"{own[name]:.2f}" if name in own else "not run",
            ]
        )
    header = ["network", "parameters", "multiply-adds", "paper, error %", "ours, error %"]
    return markdown(header, rows) + REMARK


def figure(results: Sequence[Result], stem: Path) -> list[Path]:
    """The paper's errors, and below them ours."""
    panels = [
        Panels("CIFAR-10, test error %, Table 6", SMALL),
        Panels("ImageNet, top-5 error %, 10 crops, Table 3", LARGE),
    ]
    if results:
        panels.append(Panels("ours, error %", ours(results)))
    drawn = Figure(figsize=(10, 3.6 * len(panels)), layout="constrained")
    every = drawn.subplots(len(panels), 2, squeeze=False)
    for row, panel in zip(every, panels, strict=True):
        for axes, (name, which) in zip(row, AXES.items(), strict=True):
            scatter(axes, panel, which)
            axes.set_xlabel(name, fontsize=10)
        row[0].set_ylabel(panel.title, fontsize=9)
    return save(drawn, stem)


def scatter(axes: Axes, panel: Panels, which: int) -> None:
    """One point for each network, with its name."""
    bare(axes)
    axes.set_xscale("log")
    tall = max(panel.errors.values()) - min(panel.errors.values())
    drawn: list[tuple[float, float]] = []
    for name, error in panel.errors.items():
        x, colour = cost_of(name, specify(name).input_size)[which], COLOURS[kind(name)]
        below = any(0.7 < x / a < 1.5 and abs(error - b) < tall / 20 for a, b in drawn)
        drawn.append((x, error))
        axes.plot(x, error, "o", color=colour, markersize=5)
        axes.annotate(
            name,
            (x, error),
            xytext=(4, -9 if below else 3),
            textcoords="offset points",
            fontsize=7,
            color=colour,
            parse_math=False,
        )
    axes.margins(x=0.18, y=0.12)
