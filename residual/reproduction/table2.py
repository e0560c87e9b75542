"""Table 2: plain and residual networks of 18 and 34 layers on ImageNet, by ten crops."""

from collections.abc import Sequence

from residual.reproduction import paper
from residual.reproduction.evaluations import number, ours, remark
from residual.reproduction.experiments import Result, by_network, recipes, with_depths
from residual.reproduction.spread import markdown
from residual.training.recipe import Recipe

CURVE = False
KEY = "10crop"  # what a result file must hold
NETWORKS = ("plain18", "plain34", "resnet18-A", "resnet34-A")


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    return recipes(with_depths(NETWORKS, depths), data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r["recipe"]["network"] in NETWORKS]


def table(results: Sequence[Result]) -> str:
    """Top-1 errors, ours beside the paper's."""
    of, rows = by_network(results), []
    for depth, (plain, residual) in paper.TABLE_2.items():
        row = [str(depth)]
        for network, printed in ((f"plain{depth}", plain), (f"resnet{depth}-A", residual)):
            row += [number(printed), *ours(of(network), KEY, "error_top1", printed)]
        rows.append(row)
    header = [
        *("layers", "plain, paper, error %", "ours", "ours - paper"),
        *("ResNet A, paper, error %", "ours", "ours - paper"),
    ]
    return markdown(header, rows) + remark(results)
