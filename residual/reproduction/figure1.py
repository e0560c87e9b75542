"""Fig. 1: the degradation. Training error (left) and test error (right) of plain networks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from residual.analysis.curves import curve_from_log
from residual.reproduction import figure6, paper
from residual.reproduction.experiments import Result, by_network, recipes
from residual.training.recipe import Recipe

CURVE = True
KEY = "error_top1"  # what a result file must hold
NETWORKS = ("plain20", "plain56")


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    chosen = [f"plain{depth}" for depth in depths] or NETWORKS
    return recipes(chosen, data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    return [r for r in figure6.shown(results) if r["recipe"]["network"].startswith("plain")]


def table(results: Sequence[Result]) -> str:
    return figure6.ends(results, paper.FIGURE_1, {})


def figure(results: Sequence[Result], stem: Path) -> list[Path]:
    """Two panels; the first seed of each network is drawn."""
    of = by_network(results)
    names = sorted({r["recipe"]["network"] for r in results}, key=figure6.by_kind_and_depth)
    curves = [curve_from_log(name, of(name)[0]["curve"]) for name in names]
    panels = {
        "training error": [replace(curve, test=()) for curve in curves],
        "test error": [replace(curve, training=()) for curve in curves],
    }
    return figure6.draw(panels, results, stem)
