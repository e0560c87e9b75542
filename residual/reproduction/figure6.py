"""Fig. 6: training (thin) and test error (bold) on CIFAR-10: plain, residual, and very deep."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from residual.analysis.curves import Curve, curve_from_log, draw_curves, save_figure
from residual.models.registry import model_spec
from residual.reproduction import paper
from residual.reproduction.experiments import Result, by_network, recipes
from residual.reproduction.spread import Spread, markdown
from residual.training.recipe import Recipe

CURVE = True
KEY = "error_top1"  # what a result file must hold
DEPTHS = (20, 32, 44, 56, 110)
VERY_DEEP = 1202


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """A plain and a residual network of each depth; 1202 layers only where they are asked for."""
    networks = [
        f"{kind}{depth}"
        for kind in ("plain", "resnet")
        for depth in depths or DEPTHS
        if (kind, depth) != ("plain", VERY_DEEP)
    ]
    return recipes(networks, data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    """Those with a curve, of the plain networks and of the residual ones with shortcut A."""
    found = []
    for result in curved(results):
        spec = model_spec(result["recipe"]["network"])
        if spec.family == "cifar" and spec.option in ("plain", "A"):
            found.append(result)
    return found


def curved(results: Sequence[Result]) -> list[Result]:
    """Those with a test error during training."""
    return [r for r in results if any("test_error" in line for line in r["curve"])]


def table(results: Sequence[Result]) -> str:
    """How the curves end, ours beside what can be read off the paper's figure."""
    return ends(results, paper.FIGURE_6, paper.FIGURE_6_NOT_DRAWN)


def ends(
    results: Sequence[Result],
    printed: Mapping[str, tuple[float, float]],
    not_drawn: Mapping[str, float],
    split: str = "test",
) -> str:
    """Final test and training errors in percent; the paper's are where its curves end."""
    of, rows = by_network(results), []
    others = {result["recipe"]["network"] for result in results} - {*printed, *not_drawn}
    for network in sorted({*printed, *not_drawn, *others}, key=by_kind_and_depth):
        test, training = "", ""
        if network in printed:
            test, training = (f"~{error:g}" for error in printed[network])
        if network in not_drawn:
            test = f"above {not_drawn[network]:g}"
        ours = of(network)
        tests = Spread([result["error_top1"] for result in ours])
        trainings = Spread([last_training_error(result) for result in ours])
        rows.append([network, test, tests.in_words(), training, trainings.in_words()])
    header = ["network", f"{split} error %, paper", "ours", "training error %, paper", "ours"]
    return markdown(header, rows)


def by_kind_and_depth(network: str) -> tuple[bool, int]:
    """Plain networks first, then residual ones; shallow before deep."""
    spec = model_spec(network)
    return spec.option != "plain", spec.depth


def last_training_error(result: Result) -> float:
    """In percent, over the last twentieth of the steps, from the images as they were trained on."""
    late = [x for x in result["curve"] if x["step"] > 0.95 * result["recipe"]["steps"]]
    wrong, seen = (sum(int(x[key]) for x in late) for key in ("wrong", "seen"))
    return 100 * wrong / seen


def figure(results: Sequence[Result], stem: Path) -> list[Path]:
    """The panels for which there is a curve; the first seed of each network is drawn."""
    of = by_network(results)
    networks = sorted({r["recipe"]["network"] for r in results}, key=by_kind_and_depth)
    curves = {name: curve_from_log(name, of(name)[0]["curve"]) for name in networks}
    deep = model_spec(networks[-1]).depth == VERY_DEEP
    panels: dict[str, list[Curve]] = {"plain": [], "residual": [], "very deep": []}
    for name, curve in curves.items():
        spec = model_spec(name)
        if spec.option == "plain":
            panels["plain"].append(curve)
        elif spec.depth < VERY_DEEP:
            panels["residual"].append(curve)
        if deep and spec.option == "A" and spec.depth >= 110:
            panels["very deep"].append(curve)
    return draw({title: some for title, some in panels.items() if some}, results, stem)


def draw(panels: Mapping[str, list[Curve]], results: Sequence[Result], stem: Path) -> list[Path]:
    """Panels side by side on one scale: 20 %, as in the paper, or what the curves need."""
    page = Figure(figsize=(4.6 * len(panels), 3.9), layout="constrained")
    axes = page.subplots(1, len(panels), squeeze=False)[0]
    last = [
        points[-1][1]
        for curves in panels.values()
        for curve in curves
        for points in (curve.test, curve.training)
        if points
    ]
    data = results[0]["data"]
    split = {"val": "validation"}.get(data["split"], data["split"])
    top = 20.0 if min(last) < 20 and results[0]["recipe"]["steps"] == 64_000 else 0.0
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        draw_curves(panel, curves, top or min(100.0, 1.5 * max(last)), split)
        panel.set_title(title)
    recipe = results[0]["recipe"]
    page.suptitle(f"{data['name']}, {recipe['steps']:,} steps")
    return save_figure(page, stem)
