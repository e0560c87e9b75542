"""Table 4: single networks on ImageNet, fully convolutional in several sizes."""

from collections.abc import Sequence

from residual.reproduction import paper
from residual.reproduction.evaluations import MODELS, OWN, key_of, models
from residual.reproduction.experiments import Result, recipes, with_depths
from residual.training.recipe import Recipe

CURVE = False
KEY = "multiscale"  # what a result file must hold
KEYS = (KEY, *OWN.values())
NETWORKS = [MODELS[model] for model in paper.TABLE_4 if model in MODELS]


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    return recipes(with_depths(NETWORKS, depths), data, steps, seeds)


def shown(results: Sequence[Result]) -> list[Result]:
    return [
        r for r in results if (own := r["recipe"]["network"]) in NETWORKS and key_of(KEY, own) in r
    ]


def table(results: Sequence[Result]) -> str:
    return models(results, KEY, paper.TABLE_4)
