"""Table 1: the ImageNet networks and what they cost. Nothing has to be trained."""

from collections.abc import Sequence

from residual.reproduction import paper
from residual.reproduction.experiments import Result, cost_of
from residual.reproduction.spread import markdown
from residual.training.recipe import Recipe

CURVE = False
KEY = "error_top1"  # what a result file must hold


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    return []


def shown(results: Sequence[Result]) -> list[Result]:
    return []


def table(results: Sequence[Result]) -> str:
    """Multiply-adds at 224x224, ours beside the paper's."""
    rows = []
    for depth, printed in paper.TABLE_1.items():
        parameters, multiply_adds = cost_of(f"resnet{depth}", 224)
        rows.append(
            [
                f"ResNet-{depth}",
                f"{printed / 1e9:.1f}e9",
                f"{multiply_adds / 1e9:.3f}e9",
                f"{parameters:,}",
            ]
        )
    return markdown(["network", "multiply-adds, paper", "ours", "parameters, ours"], rows)
