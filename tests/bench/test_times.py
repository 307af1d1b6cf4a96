"""Medians, quartiles, ratios, monotone curves."""

import numpy as np
import pytest

from bdia.bench.times import Times, falls, ratios, rises

TIMES = (3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0)


def test_median_and_quartiles_are_numpys():
    times = Times(TIMES)
    assert times.n == 7
    assert times.median == np.median(TIMES)
    assert times.quartiles == pytest.approx(tuple(np.quantile(TIMES, [0.25, 0.75])))


def test_a_ratio_within_rounds_does_not_see_that_a_whole_round_was_slow():
    ours, theirs = Times((2.0, 11.0, 3.0)), Times((1.0, 10.0, 3.0))
    assert ours.median_ratio(theirs) == pytest.approx(1.1)
    assert ours.ratio_of_medians(theirs) == 1


@pytest.mark.parametrize("times", [(), (1.0, 0.0), (-1.0,)])
def test_times_without_a_median_are_refused(times):
    with pytest.raises(ValueError, match="wanted at least one, all above 0 ms"):
        Times(times)


def test_times_of_different_rounds_have_no_ratios():
    with pytest.raises(ValueError, match="1 and 2 times"):
        ratios([1.0], [1.0, 2.0])


def test_a_curve_is_monotone_where_no_step_goes_back():
    assert falls([3, 2, 2, 1]) and not falls([3, 2, 2.1]) and rises([1, 1, 2]) and not rises([2, 1])
