"""Fig. 7: standard deviations of the layers' responses, of plain and of residual networks."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from residual.analysis.curves import save_figure
from residual.analysis.responses import draw_responses, measure_responses
from residual.data.datasets import Data
from residual.device import ComputeConfig
from residual.models.registry import model_spec
from residual.reproduction import paper
from residual.reproduction.experiments import Result, by_network, recipes
from residual.reproduction.figure6 import by_kind_and_depth
from residual.reproduction.spread import Spread, markdown
from residual.runs.load import load
from residual.storage import FORMAT, read_json
from residual.training.recipe import Recipe

CURVE = True
KEY = "responses"  # what a result file must hold
NETWORKS = ("plain20", "plain56", "resnet20", "resnet56", "resnet110")


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """The networks of the figure, or both kinds of other depths."""
    chosen = [f"{kind}{depth}" for depth in depths for kind in ("plain", "resnet")] or NETWORKS
    return recipes(chosen, data, steps, seeds)


def measured_on(run: Path, data: Data, how: ComputeConfig) -> dict[str, Any]:
    """The content of a result file: the responses of a finished run."""
    net = load(run).placed(how)
    known = read_json(run / "result.json")
    found: dict[str, Any] = {
        "format": FORMAT,
        KEY: measure_responses(net, data, how),
        "split": data.headline,
    }
    return found | {
        part: known[part] for part in ("recipe", "data", "weights_sha256", "versions", "hardware")
    }


def shown(results: Sequence[Result]) -> list[Result]:
    return list(results)


def table(results: Sequence[Result]) -> str:
    """How large the responses are in the mean, at the first layer and at the last."""
    of, rows = by_network(results), []
    others = {result["recipe"]["network"] for result in results} - paper.FIGURE_7.keys()
    for network in (*paper.FIGURE_7, *sorted(others)):
        printed = paper.FIGURE_7.get(network, {})
        theirs = [f"{which} ~{low:g} to {high:g}" for which, (low, high) in printed.items()]
        values = [result["responses"] for result in of(network)]
        ours = [
            Spread([number(some) for some in values]).in_words() if values else ""
            for number in (mean, lambda some: some[0], lambda some: some[-1])
        ]
        layers = str(model_spec(network).depth - 1)
        rows.append([network, layers, "; ".join(theirs), ours[0] or "not run", *ours[1:]])
    header = ["network", "layers", "paper", "mean, ours", "first layer, ours", "last layer, ours"]
    return markdown(header, rows)


def figure(results: Sequence[Result], stem: Path) -> list[Path]:
    """Original order above, sorted below; the first seed of each network is drawn."""
    of = by_network(results)
    networks = sorted({result["recipe"]["network"] for result in results}, key=by_kind_and_depth)
    values = {name: of(name)[0]["responses"] for name in networks}
    return save_figure(draw_responses(values), stem)
