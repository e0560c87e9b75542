"""Reads and groups result files; computes the spread over seeds; formats Markdown tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t

from residual.storage import read_json

Result = dict[str, Any]
RESULTS = Path("results")
NOT_RUN = "not run"


def read_results(folder: Path, key: str = "error_top1") -> list[Result]:
    """The results in a folder that have this key, in the order of their file names."""
    results = map(read_json, sorted(folder.glob("*.json")))
    return [result for result in results if key in result]


def grouped(results: Iterable[Result], name: Callable[[Result], str]) -> dict[str, list[Result]]:
    """Results grouped by a name, in the order of the names."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(name(result), []).append(result)
    return dict(sorted(groups.items()))


def by_seed(results: Iterable[Result]) -> list[Result]:
    """One result per seed, in the order of the seeds."""
    seeds = {result["recipe"]["seed"]: result for result in results}
    return [seeds[seed] for seed in sorted(seeds)]


def network_of(result: Result) -> str:
    """The name of the network of a result."""
    return str(result["recipe"]["network"])


def of_network(results: Iterable[Result], network: str) -> list[Result]:
    """The results of one network, one per seed."""
    return by_seed(result for result in results if network_of(result) == network)


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of a percentage over seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def deviation(self) -> float:
        """The sample standard deviation; 0 for a single seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def band(self) -> tuple[float, float] | None:
        """The 95 % prediction interval for one more run; None for a single seed."""
        n = len(self.values)
        if n < 2:
            return None
        # Student's t interval for a new observation: the printed value is a single run as well.
        half = float(t.ppf(0.975, n - 1)) * self.deviation * sqrt(1 + 1 / n)
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        """For example `8.69 ± 0.16 (5 seeds)`."""
        n = len(self.values)
        if not n:
            return NOT_RUN
        if n == 1:
            return f"{self.mean:.2f} (1 seed)"
        return f"{self.mean:.2f} ± {self.deviation:.2f} ({n} seeds)"

    def difference(self, printed: float) -> str:
        """Our mean minus a printed value, and whether that lies inside the prediction interval."""
        if self.band is None:
            return f"{self.mean - printed:+.2f}" if self.values else ""
        low, high = self.band
        where = "inside" if low <= printed <= high else "outside"
        return f"{self.mean - printed:+.2f}, {where} {low:.2f} to {high:.2f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])
