"""Mean, sample standard deviation and n of runs that differ in the seed, and the difference of two of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NONE = "\N{EN DASH}"  # what a table shows where there is no number


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (ddof = 1; NaN where n = 1) of n runs."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        finite = all(math.isfinite(value) for value in values)
        std = statistics.stdev(values) if finite and len(values) > 1 else math.nan
        return cls(statistics.fmean(values), std, len(values))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN where n = 1."""
        return self.std / math.sqrt(self.n)

    def deviation(self, digits: int) -> str:
        """Return the standard deviation as text, `NONE` where n = 1."""
        return NONE if math.isnan(self.std) else f"{self.std:.{digits}f}"

    def text(self, digits: int = 2) -> str:
        """Return "mean ± std (n=...)"."""
        return f"{self.short(digits)} (n={self.n})"

    def short(self, digits: int = 2) -> str:
        """Return "mean ± std"."""
        return f"{self.mean:.{digits}f} ± {self.deviation(digits)}"


def difference_text(first: Spread, second: Spread, unit: str = "points", digits: int = 2) -> str:
    """Return first minus second with its standard error, and whether it lies within two of them."""
    difference = first.mean - second.mean
    error = math.hypot(first.standard_error, second.standard_error)
    if not math.isfinite(difference):
        return "unknown (the loss of a run is not finite)" if unit == "nat" else "unknown (a value is not finite)"
    if math.isnan(error):
        return f"{difference:+.{digits}f} {unit}, no standard error (a single run)"
    unresolved = " (within two standard errors: not resolved)" if abs(difference) <= 2 * error else ""
    return f"{difference:+.{digits}f} {unit} with standard error {error:.{digits}f}{unresolved}"
