"""Several seeds of one experiment: their mean, their deviation, and what another would bring."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from scipy.stats import t


@dataclass(frozen=True)
class Spread:
    """Errors in percent, one for each seed."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def deviation(self) -> float:
        """The sample's standard deviation; 0 of a single seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def band(self) -> tuple[float, float] | None:
        """Where one more run would fall, 19 times out of 20; None for a single seed."""
        n = len(self.values)
        if n < 2:
            return None
        # A prediction interval of Student's t: the printed value is one run, too.
        half = float(t.ppf(0.975, n - 1)) * self.deviation * sqrt(1 + 1 / n)
        return self.mean - half, self.mean + half

    def in_words(self) -> str:
        """`8.69 ± 0.16 (5 seeds)`."""
        n = len(self.values)
        if not n:
            return "not run"
        if n == 1:
            return f"{self.mean:.2f} (1 seed)"
        return f"{self.mean:.2f} ± {self.deviation:.2f} ({n} seeds)"

    def verdict(self, printed: float) -> str:
        """Whether the printed value could be another of these runs."""
        if self.band is None:
            return "" if not self.values else f"{self.mean - printed:+.2f}"
        low, high = self.band
        where = "inside" if low <= printed <= high else "outside"
        return f"{self.mean - printed:+.2f}, {where} {low:.2f} to {high:.2f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as it is and on a page."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])
