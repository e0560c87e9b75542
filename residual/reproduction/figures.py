"""Figures 1, 4, 6 and 7, the tables of their curves' ends, and the demo."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import mean
from types import MappingProxyType

from matplotlib.figure import Figure

from residual.analysis.curves import Curve, curve_from_log, draw_curves, save_figure
from residual.analysis.responses import draw_responses
from residual.models.registry import model_spec
from residual.reproduction import paper
from residual.reproduction.experiments import (
    ERROR,
    RESPONSES,
    Experiment,
    Request,
    classifiers,
)
from residual.reproduction.results import NOT_RUN, Result, Spread, markdown, network_of, of_network
from residual.reproduction.tables import TABLE_6_DEPTHS, data_remark, title
from residual.tasks.classification.recipe import CIFAR

VERY_DEEP = 1202
DEMO_DEPTHS, DEMO_SEEDS, DEMO_STEPS = (20, 32), 3, 200


def both_kinds(depths: Sequence[int]) -> list[str]:
    """Plain and residual networks of some depths."""
    return [f"{kind}{depth}" for kind in ("plain", "resnet") for depth in depths]


def figure1_experiments(request: Request) -> list[Experiment]:
    networks = [f"plain{depth}" for depth in request.depths] or list(paper.FIGURE_1)
    return classifiers(networks, request, curve=True)


def figure6_experiments(request: Request) -> list[Experiment]:
    """A plain and a residual network of each depth; ResNet-1202 only on request."""
    depths = request.depths or TABLE_6_DEPTHS
    networks = [name for name in both_kinds(depths) if name != "plain1202"]
    return classifiers(networks, request, curve=True)


def figure7_experiments(request: Request) -> list[Experiment]:
    """The networks of the figure, or plain and residual networks of the given depths."""
    networks = both_kinds(request.depths) or list(paper.FIGURE_7)
    return classifiers(networks, request, RESPONSES, curve=True)


def demo_experiments(request: Request) -> list[Experiment]:
    """Plain and residual networks of two depths, with three seeds."""
    request = replace(request, steps=request.steps or DEMO_STEPS, seeds=DEMO_SEEDS)
    return classifiers(both_kinds(DEMO_DEPTHS), request, curve=True)


def has_curve(result: Result) -> bool:
    """Whether the test error was measured during the training."""
    return any("test_error" in line for line in result["curve"])


def in_figure6(result: Result) -> bool:
    """Whether a result has a curve and is of a plain network or of one with shortcut A."""
    spec = model_spec(network_of(result))
    return has_curve(result) and spec.family == "cifar" and spec.option in ("plain", "A")


def in_figure1(result: Result) -> bool:
    return in_figure6(result) and network_of(result).startswith("plain")


def in_demo(result: Result) -> bool:
    return in_figure6(result) and result["data"]["name"] == "digits"


def curve_ends(
    results: Sequence[Result],
    printed: Mapping[str, tuple[float, float]],
    not_drawn: Mapping[str, float] = MappingProxyType({}),
    split: str = "test",
) -> str:
    """The final test and training errors, ours beside those read off the paper's figure."""
    rows = []
    networks = {*printed, *not_drawn, *map(network_of, results)}
    for network in sorted(networks, key=kind_and_depth):
        test, training = "", ""
        if network in printed:
            test, training = (f"~{error:g}" for error in printed[network])
        if network in not_drawn:
            test = f"above {not_drawn[network]:g}"
        stored = of_network(results, network)
        tests = Spread([result[ERROR] for result in stored])
        trainings = Spread([last_training_error(result) for result in stored])
        rows.append([network, test, str(tests), training, str(trainings)])
    header = ["network", f"{split} error %, paper", "ours", "training error %, paper", "ours"]
    return markdown(header, rows)


figure1_table = partial(curve_ends, printed=paper.FIGURE_1)
figure6_table = partial(curve_ends, printed=paper.FIGURE_6, not_drawn=paper.FIGURE_6_NOT_DRAWN)


def figure4_table(results: Sequence[Result]) -> str:
    """Centre-crop errors on ImageNet."""
    ends = curve_ends(results, paper.FIGURE_4, split="validation")
    return ends + data_remark(results)


def figure7_table(results: Sequence[Result]) -> str:
    """The responses' mean over the layers, and those of the first and last layer."""
    rows = []
    others = sorted(set(map(network_of, results)) - paper.FIGURE_7.keys())
    statistics: list[Callable[[list[float]], float]] = [mean, lambda x: x[0], lambda x: x[-1]]
    for network in (*paper.FIGURE_7, *others):
        ranges = paper.FIGURE_7.get(network, {}).items()
        printed = "; ".join(f"{layers} ~{low:g} to {high:g}" for layers, (low, high) in ranges)
        values = [result[RESPONSES] for result in of_network(results, network)]
        cells = [NOT_RUN, "", ""]
        if values:
            cells = [str(Spread([statistic(x) for x in values])) for statistic in statistics]
        rows.append([network, str(model_spec(network).depth - 1), printed, *cells])
    header = ["network", "layers", "paper", "mean, ours", "first layer, ours", "last layer, ours"]
    return markdown(header, rows)


def demo_table(results: Sequence[Result]) -> str:
    """Means and ranges of the errors, and whether the deeper networks are worse."""
    rows = []
    for kind in ("plain", "resnet"):
        for name, error in (("training", last_training_error), ("test", itemgetter(ERROR))):
            shallow, deep = (
                [error(result) for result in of_network(results, f"{kind}{depth}")]
                for depth in DEMO_DEPTHS
            )
            cells = [mean_and_range(shallow), mean_and_range(deep), degradation(shallow, deep)]
            rows.append([kind, name, *cells])
    header = ["networks", "error %", *(f"{depth} layers" for depth in DEMO_DEPTHS), "degradation"]
    return markdown(header, rows)


def last_training_error(result: Result) -> float:
    """In percent, over the last twentieth of the steps, on the augmented training images."""
    late = [x for x in result["curve"] if x["step"] > 0.95 * result["recipe"]["steps"]]
    wrong, images = (sum(int(x[key]) for x in late) for key in ("wrong", "seen"))
    return 100 * wrong / images


def mean_and_range(errors: Sequence[float]) -> str:
    """For example `4.81 (4.44 to 5.28)`."""
    if not errors:
        return NOT_RUN
    return f"{sum(errors) / len(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})"


def degradation(shallow: Sequence[float], deep: Sequence[float]) -> str:
    """Whether every run of the deeper network has a higher error than every shallow one."""
    if not shallow or not deep:
        return ""
    return "seen" if min(deep) > max(shallow) else "not seen"


def kind_and_depth(network: str) -> tuple[bool, int]:
    """Sorts plain networks before residual ones, and shallow before deep."""
    spec = model_spec(network)
    return spec.option != "plain", spec.depth


def first_seeds(results: Sequence[Result]) -> dict[str, Result]:
    """For each network the result that is drawn."""
    names = sorted(set(map(network_of, results)), key=kind_and_depth)
    return {name: of_network(results, name)[0] for name in names}


def curves(results: Sequence[Result]) -> dict[str, Curve]:
    return {name: curve_from_log(name, r["curve"]) for name, r in first_seeds(results).items()}


def figure1(results: Sequence[Result], stem: Path) -> list[Path]:
    """Training error on the left, test error on the right."""
    by_network = curves(results).values()
    panels = {
        "training error": [replace(curve, test=()) for curve in by_network],
        "test error": [replace(curve, training=()) for curve in by_network],
    }
    return draw(panels, results, stem)


def plain_and_residual(
    results: Sequence[Result], stem: Path, very_deep: bool = False
) -> list[Path]:
    """Fig. 4 and 6: a panel of plain networks, one of residual networks, and in Fig. 6 one of the
    deepest networks if there is one of 1202 layers."""
    panels: dict[str, list[Curve]] = {"plain": [], "residual": [], "very deep": []}
    by_network = curves(results)
    deepest = very_deep and any(model_spec(name).depth == VERY_DEEP for name in by_network)
    for name, curve in by_network.items():
        spec = model_spec(name)
        if spec.option == "plain":
            panels["plain"].append(curve)
        elif spec.depth < VERY_DEEP or not very_deep:
            panels["residual"].append(curve)
        if deepest and spec.option == "A" and spec.depth >= 110:
            panels["very deep"].append(curve)
    return draw({name: some for name, some in panels.items() if some}, results, stem)


figure6 = partial(plain_and_residual, very_deep=True)


def figure7(results: Sequence[Result], stem: Path) -> list[Path]:
    """The layers in their order above, sorted by response below."""
    by_network = first_seeds(results).items()
    page = draw_responses({name: result[RESPONSES] for name, result in by_network})
    return save_figure(page, stem)


def draw(panels: Mapping[str, list[Curve]], results: Sequence[Result], stem: Path) -> list[Path]:
    """Panels side by side with one scale: up to 20 % as in the paper, or as the curves need it."""
    page = Figure(figsize=(4.6 * len(panels), 3.9), layout="constrained")
    axes = page.subplots(1, len(panels), squeeze=False)[0]
    ends = [
        points[-1][1]
        for some in panels.values()
        for curve in some
        for points in (curve.test, curve.training)
        if points
    ]
    data, steps = results[0]["data"], results[0]["recipe"]["steps"]
    split = {"val": "validation"}.get(data["split"], data["split"])
    top = 20.0 if min(ends) < 20 and steps == CIFAR.steps else min(100.0, 1.5 * max(ends))
    for panel, (name, some) in zip(axes, panels.items(), strict=True):
        draw_curves(panel, some, top, split)
        panel.set_title(name)
    page.suptitle(title(results[0]))
    return save_figure(page, stem)
