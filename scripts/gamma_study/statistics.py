"""Differences of runs paired by seed, and the rule that chooses the default law."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import t as student

from gamma_study.laws import STANDARD

MARGIN = 0.01  # nat: how much a law may cost in every cell, fixed before the study ran


class Paired(NamedTuple):
    """Mean of differences of pairs, half the width of its 95 % t-interval (NaN for one pair), number of pairs."""

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Mapping[int, float], reference: Mapping[int, float]) -> "Paired":
        """Return value minus reference over the seeds that both have.

        Raises:
            ValueError: no seed is in both.
        """
        differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
        if not differences:
            raise ValueError(f"no common seed: {sorted(values)} and {sorted(reference)}")
        mean, n = statistics.fmean(differences), len(differences)
        if n == 1 or not math.isfinite(mean):
            return cls(mean, math.nan, n)
        return cls(mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n), n)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        return 0 if not abs(self.mean) > self.half_width else int(math.copysign(1, self.mean))


def by_seed(runs: Sequence[Mapping[str, Any]], cell: str, law: str, value: str = "final") -> dict[int, float]:
    """Return {seed: validation loss} of a law in a cell; `value` is "final", "best" (lowest of the curve) or a key."""
    read = {"final": lambda run: run["val"][-1][1], "best": lambda run: min(loss for _, loss in run["val"])}
    pick = read.get(value, lambda run: run[value])
    return {run["seed"]: pick(run) for run in runs if (run["cell"], run["law"]) == (cell, law)}


def most_side_bits(runs: Sequence[Mapping[str, Any]], law: str) -> float:
    """Most bits of side information per activation in any pass of the law; mean over the blocks of a pass."""
    return max(bits for run in runs if run["law"] == law for _, bits in run["side_bits"])


def laws_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the laws, in the order in which they ran."""
    return list(dict.fromkeys(run["law"] for run in runs))


def costs(runs: Sequence[Mapping[str, Any]], cells: Sequence[str]) -> dict[str, dict[str, Paired]]:
    """Return {law: {cell: final validation loss minus that of the standard model}} of all laws but the standard.

    A cell in which a law did not run is left out of that law's entry.
    """
    found: dict[str, dict[str, Paired]] = {law: {} for law in laws_of(runs) if law != STANDARD}
    for law, of in found.items():
        for cell in cells:
            values = by_seed(runs, cell, law)
            if values:
                of[cell] = Paired.of(values, by_seed(runs, cell, STANDARD))
    return found


def chosen_law(runs: Sequence[Mapping[str, Any]], cells: Sequence[str]) -> tuple[str, bool]:
    """Apply the rule: of the laws that cost at most `MARGIN` in every cell, the one with the fewest side bits.

    Side bits are those of the pass that needs most of them. Of two laws with equal bits, the one with the lower
    mean cost. Where no law stays within the margin: the law whose worst cell costs least.

    Returns:
        The law, and whether it stays within the margin.
    """
    cost = {law: of for law, of in costs(runs, cells).items() if len(of) == len(cells)}  # laws that ran everywhere
    worst = {law: max(paired.mean for paired in of.values()) for law, of in cost.items()}
    within = [law for law, value in worst.items() if value <= MARGIN]  # false for NaN
    if not within:
        return min(worst, key=lambda law: math.inf if math.isnan(worst[law]) else worst[law]), False
    mean = {law: statistics.fmean(paired.mean for paired in cost[law].values()) for law in within}
    return min(within, key=lambda law: (most_side_bits(runs, law), mean[law])), True
