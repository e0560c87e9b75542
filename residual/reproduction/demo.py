"""`make demo`: the degradation of plain networks, and its absence in residual ones, on digits."""

from collections.abc import Sequence
from pathlib import Path

from residual.reproduction import figure6
from residual.reproduction.experiments import Result, by_network, recipes
from residual.reproduction.spread import markdown
from residual.training.recipe import Recipe

CURVE = True
KEY = "error_top1"
SHALLOW, DEEP = 20, 32
SEEDS = (0, 1, 2)
STEPS = 200


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Recipe]:
    """Plain and residual networks of two depths; three seeds, fixed here."""
    networks = [f"{kind}{depth}" for kind in ("plain", "resnet") for depth in (SHALLOW, DEEP)]
    return recipes(networks, data, steps or STEPS, len(SEEDS))


def shown(results: Sequence[Result]) -> list[Result]:
    return [r for r in figure6.shown(results) if r["data"]["name"] == "digits"]


def table(results: Sequence[Result]) -> str:
    """Means and ranges, and what they show; where ranges overlap, nothing is seen."""
    of, rows = by_network(results), []
    for kind in ("plain", "resnet"):
        for name, error in (("training", figure6.last_training_error), ("test", test_error)):
            shallow, deep = (
                [error(result) for result in of(f"{kind}{depth}")] for depth in (SHALLOW, DEEP)
            )
            rows.append([kind, name, in_words(shallow), in_words(deep), verdict(shallow, deep)])
    header = ["networks", "error %", f"{SHALLOW} layers", f"{DEEP} layers", "degradation"]
    return markdown(header, rows)


def test_error(result: Result) -> float:
    return float(result["error_top1"])


def in_words(errors: Sequence[float]) -> str:
    """`4.81 (4.44 to 5.28)`: the mean and the range."""
    if not errors:
        return "not run"
    return f"{sum(errors) / len(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})"


def verdict(shallow: Sequence[float], deep: Sequence[float]) -> str:
    """Whether more layers made the error higher, in every run."""
    if not shallow or not deep:
        return ""
    return "seen" if min(deep) > max(shallow) else "not seen"


def figure(results: Sequence[Result], stem: Path) -> list[Path]:
    return figure6.figure(results, stem)
