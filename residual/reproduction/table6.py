"""Table 6: errors on CIFAR-10, ours beside the paper's."""

from collections.abc import Sequence

from residual import paper
from residual.reproduction.experiments import Result, by_network, cost_of, recipes
from residual.reproduction.spread import Spread, markdown
from residual.rivals.networks import specify
from residual.training.recipe import Recipe

CURVE = False
KEY = "error_top1"  # what a result file must hold
DEPTHS = (20, 32, 44, 56, 110)  # 1202 is asked for by name: it takes as long as all others together


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """The ResNets of the table; other depths only where they are asked for."""
    return recipes([f"resnet{depth}" for depth in depths or DEPTHS], data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    specs = [specify(result["recipe"]["network"]) for result in results]
    return [
        result
        for result, spec in zip(results, specs, strict=True)
        if spec.family == "cifar" and spec.option == "A"
    ]


def table(results: Sequence[Result]) -> str:
    """Rows that were not run say so; the rivals' rows are the paper's own."""
    rows = []
    for name, (layers, millions, error) in paper.TABLE_6_RIVALS.items():
        rows.append([name, _or_dash(layers), _millions(millions), _printed(name, error), "", ""])
    of = by_network(results)
    for depth, (error, _) in paper.TABLE_6.items():
        ours = Spread([result["error_top1"] for result in of(f"resnet{depth}")])
        parameters, _ = cost_of(f"resnet{depth}", 32)
        name = f"ResNet-{depth}"
        rows.append(
            [
                name,
                str(depth),
                _millions(parameters / 1e6),
                _printed(name, error),
                ours.in_words(),
                ours.verdict(paper.TABLE_6_FIVE_RUNS.get(name, (error,))[0]),
            ]
        )
    header = ["method", "layers", "parameters", "paper, error %", "ours, error %", "ours - paper"]
    return markdown(header, rows)


def _printed(name: str, error: float) -> str:
    if name not in paper.TABLE_6_FIVE_RUNS:
        return f"{error:.2f}"
    mean, deviation = paper.TABLE_6_FIVE_RUNS[name]
    return f"{error:.2f} ({mean:.2f} ± {deviation:.2f})"


def _millions(parameters: float | None) -> str:
    return "" if parameters is None else f"{parameters:.2f}M"


def _or_dash(value: int | None) -> str:
    return "" if value is None else str(value)
