"""Table 6: errors on CIFAR-10, ours beside the paper's."""

from collections.abc import Sequence

from residual.models.registry import model_spec
from residual.reproduction import paper
from residual.reproduction.experiments import Result, by_network, cost_of, recipes
from residual.reproduction.spread import Spread, markdown
from residual.training.recipe import Recipe

CURVE = False
REMARK = (
    "\n\nThe networks that ResNets are compared with were trained by their own published recipes, "
    "and steps of another batch are counted as images. FitNet-19's printed error was reached with "
    "a teacher's hints, which its row here does without."
)
KEY = "error_top1"  # what a result file must hold
BASELINES = {  # as the table calls them: our names
    "Maxout": "maxout",
    "NIN": "nin",
    "DSN": "dsn",
    "FitNet-19": "fitnet19",
    "Highway-19": "highway19",
    "Highway-32": "highway32",
}
DEPTHS = (20, 32, 44, 56, 110)  # 1202 is asked for by name: it takes as long as all others together


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """All networks of the table, or the ResNets of the depths that are asked for."""
    rivals = [] if depths else list(BASELINES.values())
    ours = [f"resnet{depth}" for depth in depths or DEPTHS]
    return recipes([*ours, *rivals], data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    specs = [model_spec(result["recipe"]["network"]) for result in results]
    return [
        result
        for result, spec in zip(results, specs, strict=True)
        if (spec.family == "cifar" and spec.option == "A") or spec.name in BASELINES.values()
    ]


def table(results: Sequence[Result]) -> str:
    """Rows that were not run say so."""
    rows = []
    of = by_network(results)
    printed = {name: (BASELINES[name], layers, error)
               for name, (layers, _, error) in paper.TABLE_6_RIVALS.items()}  # fmt: skip
    printed |= {
        f"ResNet-{depth}": (f"resnet{depth}", depth, error)
        for depth, (error, _) in paper.TABLE_6.items()
    }
    for name, (network, layers, error) in printed.items():
        ours = Spread([result["error_top1"] for result in of(network)])
        parameters, _ = cost_of(network, 32)
        rows.append(
            [
                name,
                _or_dash(layers),
                _millions(parameters),
                _printed(name, error),
                ours.in_words(),
                ours.verdict(paper.TABLE_6_FIVE_RUNS.get(name, (error,))[0]),
            ]
        )
    header = ["method", "layers", "parameters", "paper, error %", "ours, error %", "ours - paper"]
    return markdown(header, rows) + REMARK * any(of(network) for network in BASELINES.values())


def _printed(name: str, error: float) -> str:
    if name not in paper.TABLE_6_FIVE_RUNS:
        return f"{error:.2f}"
    mean, deviation = paper.TABLE_6_FIVE_RUNS[name]
    return f"{error:.2f} ({mean:.2f} ± {deviation:.2f})"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.2f}M"


def _or_dash(value: int | None) -> str:
    return "" if value is None else str(value)
