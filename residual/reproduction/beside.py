"""Ours beside the usual loop: errors and speed, from the files that benchmarks/ leaves."""

from pathlib import Path
from typing import Any

from residual.reproduction.experiments import budgets, by_network, kept
from residual.reproduction.spread import Spread, markdown


def errors(folder: Path) -> str:
    """Test errors of ours and of the usual loop, with equal recipes, for each budget."""
    usual = kept(folder / "benchmarks", "usual_error_top1")
    theirs, ours = budgets(usual), budgets(kept(folder))
    rows = []
    for title, some in theirs.items():
        for network in sorted({result["recipe"]["network"] for result in some}):
            spreads = [
                Spread([each[key] for each in by_network(of)(network)])
                for key, of in (("error_top1", ours.get(title, [])), ("usual_error_top1", some))
            ]
            rows.append([title, network, *(each.in_words() for each in spreads), agree(*spreads)])
    header = ["data and budget", "network", "ours, error %", "usual loop, error %", "means"]
    return markdown(header, rows) if rows else "Not run."


def agree(ours: Spread, usual: Spread) -> str:
    """Whether the means are within one deviation, the larger of the two."""
    if min(len(ours.values), len(usual.values)) < 2:
        return ""
    apart, deviation = abs(ours.mean - usual.mean), max(ours.deviation, usual.deviation)
    where = "within" if apart <= deviation else "not within"
    return f"{apart:.2f} apart, {where} one deviation"


def speed(folder: Path) -> str:
    """Training speed as a ratio, both sides measured in turn in one run."""
    rows = []
    for found in kept(folder / "benchmarks", "networks"):
        for network, each in found["networks"].items():
            rows.append(
                [
                    found["hardware"],
                    found["precision"],
                    network,
                    *(side(each[name]) for name in ("ours", "usual")),
                    f"{each['ratio']:.2f}",
                ]
            )
    header = ["hardware", "precision", "network", "ours", "usual loop", "median ratio"]
    return markdown(header, rows) if rows else "Not run."


def side(measured: dict[str, Any]) -> str:
    speed, memory = measured["images_per_second"], measured["peak_memory_bytes"]
    return f"{speed:,.0f} images/s, {memory / 2**30:.2f} GiB"
