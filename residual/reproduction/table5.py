"""Table 5: an ensemble on ImageNet. The test server is closed, so ours is on validation."""

from collections.abc import Sequence
from dataclasses import replace

from residual.models.registry import BASELINES
from residual.reproduction import paper
from residual.reproduction.evaluations import ENSEMBLE, number, remark
from residual.reproduction.experiments import Result, recipes, with_depths
from residual.reproduction.spread import markdown
from residual.reproduction.table4 import NETWORKS
from residual.training.recipe import Recipe

CURVE = False
KEY = ENSEMBLE  # what a result file must hold
DEEPEST = "resnet152"
ON_TEST = (
    "\n\nThe paper's errors are on the test set, whose server is closed; ours is on the validation "
    "set, as is the error of a single network in Table 4, and is no equal of theirs."
)


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """Networks that answer together: all that are asked for."""
    # Choice: the paper names six models of different depth, two of them of 152 layers, and not the
    # others. We take the five of Table 4 and ResNet-152 from a second seed, of equal weight.
    ours = [name for name in NETWORKS if name not in BASELINES]
    chosen = recipes(with_depths(ours, depths), data, steps, seeds)
    second = [replace(r, seed=1) for r in chosen if r.network == DEEPEST and seeds == 1]
    return chosen + second


def shown(results: Sequence[Result]) -> list[Result]:
    return list(results)


def table(results: Sequence[Result]) -> str:
    """Top-5 errors; the rows above ours are the paper's own."""
    rows = [[method, number(error), ""] for method, error in paper.TABLE_5.items()]
    for result in results:
        record = result[KEY]
        together = " + ".join(record.get("networks") or [record["network"]])
        error = record["error_top5"]
        cell = number(error) or f"none: {result['pictures']['classes']} classes"
        rows.append([f"ours: {together}", "", cell])
    if not results:
        rows.append(["ours", "", "not run"])
    header = ["ensemble", "paper, top-5 error % on test", "ours, top-5 error % on validation"]
    return markdown(header, rows) + ON_TEST + remark(results)
