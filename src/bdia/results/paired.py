"""Compare two variants seed by seed, with scipy's and statsmodels' tests.

Seeds fix the weights at the start, the order of the data and the split, so runs of one seed are a pair: what the seed
brings to both leaves their difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from bdia.results.statistics import Spread

CONFIDENCE = 0.95
FLIPS = 9999  # random sign flips where all of them are too many (more than 13 pairs)


@dataclass(frozen=True)
class Paired:
    """The differences of n pairs, first minus second.

    Args:
        first, second: spreads over the seeds that both have.
        differences: by seed, in the order of the seeds.
    """

    first: Spread
    second: Spread
    differences: tuple[float, ...]

    @classmethod
    def of(cls, first: Mapping[int, float], second: Mapping[int, float]) -> "Paired | None":
        """Pair the values of two variants, given by seed; None where they share no seed."""
        both = pd.concat([pd.Series(first, dtype=float), pd.Series(second, dtype=float)], axis=1, join="inner")
        if both.empty:
            return None
        both = both.sort_index()
        columns = (both[0], both[1])
        return cls(*(Spread.of([*map(float, column)]) for column in columns), tuple(map(float, both[0] - both[1])))

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.differences)

    @property
    def mean(self) -> float:
        """Mean difference; NaN where a value is not finite."""
        return float(np.mean(self.differences))

    @property
    def std(self) -> float:
        """Sample standard deviation of the differences; NaN where n = 1 or a value is not finite."""
        return Spread.of(self.differences).std

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % t interval of the mean difference; NaN where n = 1."""
        if self._is_degenerate:
            return (self.mean, self.mean) if self.n > 1 else (math.nan, math.nan)
        low, high = stats.ttest_1samp(self.differences, 0.0).confidence_interval(CONFIDENCE)
        return float(low), float(high)

    @cached_property
    def p(self) -> float:
        """Two-sided p of the paired t test; NaN where n = 1."""
        if self._is_degenerate:
            return math.nan if self.n == 1 or math.isnan(self.mean) else float(self.mean == 0)
        return float(stats.ttest_1samp(self.differences, 0.0).pvalue)

    @cached_property
    def sign_flip_p(self) -> float:
        """Two-sided p of the sign-flip test, which needs no normal distribution: at least 2 / 2^n."""
        if self.n == 1 or math.isnan(self.mean):
            return math.nan
        test = stats.permutation_test(
            (np.asarray(self.differences),), lambda x, axis: np.abs(np.mean(x, axis=axis)), permutation_type="samples",
            alternative="greater", vectorized=True, n_resamples=FLIPS, rng=np.random.default_rng(0),
        )  # fmt: skip
        return float(test.pvalue)

    @property
    def _is_degenerate(self) -> bool:
        """Whether a t test has nothing to divide by: one pair, equal differences, a value that is not finite."""
        return self.n == 1 or not self.std > 1e-12 * abs(self.mean)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Holm's correction over all of them; NaN stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests  # here: it is slow to import

    corrected = np.array(p_values, dtype=float)
    known = ~np.isnan(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return [*map(float, corrected)]


def power(size: float, std: float, n: int, alpha: float) -> float:
    """Return the probability that a two-sided paired t test at level alpha finds a difference of this size.

    Args:
        size: true mean difference. std: of the differences.
    """
    if n < 2 or not std > 0:
        return math.nan
    shift, critical = abs(size) / std * math.sqrt(n), stats.t.isf(alpha / 2, n - 1)
    wrong_sign = np.nan_to_num(stats.nct.cdf(-critical, n - 1, shift))  # NaN where it is far below 1e-16
    return float(stats.nct.sf(critical, n - 1, shift) + wrong_sign)


def pairs_needed(size: float, std: float, alpha: float, wanted: float = 0.8, most: int = 1000) -> int | None:
    """Return the least number of pairs whose power is `wanted`; None where `most` are too few."""
    return next((n for n in range(2, most + 1) if power(size, std, n, alpha) >= wanted), None)
