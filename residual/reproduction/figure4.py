"""Fig. 4: training (thin) and validation error (bold) on ImageNet: plain and residual networks."""

from collections.abc import Sequence
from pathlib import Path

from residual.analysis.curves import Curve, curve_from_log
from residual.models.registry import model_spec
from residual.reproduction import figure6, paper
from residual.reproduction.evaluations import remark
from residual.reproduction.experiments import Result, by_network, recipes, with_depths
from residual.training.recipe import Recipe

CURVE = True
KEY = "error_top1"  # what a result file must hold
NETWORKS = tuple(paper.FIGURE_4)


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    return recipes(with_depths(NETWORKS, depths), data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    """Those with a curve, of the four networks."""
    return [r for r in figure6.curved(results) if r["recipe"]["network"] in NETWORKS]


def table(results: Sequence[Result]) -> str:
    """How the curves end, by the centre crop, ours beside what can be read off the figure."""
    return figure6.ends(results, paper.FIGURE_4, {}, "validation") + remark(results)


def figure(results: Sequence[Result], stem: Path) -> list[Path]:
    """Two panels; the first seed of each network is drawn."""
    of = by_network(results)
    panels: dict[str, list[Curve]] = {"plain": [], "residual": []}
    for name in sorted({r["recipe"]["network"] for r in results}, key=figure6.by_kind_and_depth):
        kind = "plain" if model_spec(name).option == "plain" else "residual"
        panels[kind].append(curve_from_log(name, of(name)[0]["curve"]))
    return figure6.draw({title: some for title, some in panels.items() if some}, results, stem)
