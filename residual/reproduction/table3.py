"""Table 3: plain and residual networks on ImageNet, by ten crops."""

from collections.abc import Sequence

from residual.reproduction import paper
from residual.reproduction.evaluations import MODELS, models
from residual.reproduction.experiments import Result, recipes, with_depths
from residual.training.recipe import Recipe

CURVE = False
KEY = "10crop"  # what a result file must hold
NETWORKS = [MODELS[model] for model in paper.TABLE_3 if model in MODELS]


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    return recipes(with_depths(NETWORKS, depths), data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r["recipe"]["network"] in NETWORKS]


def table(results: Sequence[Result]) -> str:
    return models(results, KEY, paper.TABLE_3)
