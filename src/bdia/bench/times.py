"""What the times of interleaved rounds say: medians, quartiles, ratios."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bdia import InvalidValueError


@dataclass(frozen=True)
class Times:
    """Milliseconds per step over the rounds, of one variant.

    Args:
        ms: one time per round.
    """

    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what has no median."""
        if not self.ms or min(self.ms) <= 0:
            raise InvalidValueError(f"times {self.ms}: wanted at least one, all above 0 ms")

    @property
    def n(self) -> int:
        """Number of rounds."""
        return len(self.ms)

    @property
    def median(self) -> float:
        """Median, ms."""
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, ms, interpolated between the times (as NumPy's default)."""
        if self.n == 1:
            return self.ms[0], self.ms[0]
        first, _, third = statistics.quantiles(self.ms, n=4, method="inclusive")
        return first, third

    def ratio_of_medians(self, other: "Times") -> float:
        """Median over the other's median."""
        return self.median / other.median

    def median_ratio(self, other: "Times") -> float:
        """Median of the ratios within a round: what slows a whole round down cancels.

        Raises:
            ValueError: the two were not timed in the same rounds.
        """
        return statistics.median(ratios(self.ms, other.ms))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round.

    Raises:
        ValueError: as many times are wanted of both.
    """
    if len(ours) != len(theirs):
        raise InvalidValueError(f"{len(ours)} and {len(theirs)} times: wanted two variants of the same rounds")
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def falls(values: Sequence[float]) -> bool:
    """Whether no value is larger than the one before."""
    return all(later <= earlier for earlier, later in pairwise(values))


def rises(values: Sequence[float], slack: float = 0.0) -> bool:
    """Whether no value is smaller than the one before, by more than the slack."""
    return all(later >= earlier - slack for earlier, later in pairwise(values))
