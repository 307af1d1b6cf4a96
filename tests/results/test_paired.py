"""Paired differences: against numbers worked out by hand or by another function, and over simulated studies."""

import math

import numpy as np
import pytest

from bdia.results.paired import Paired, holm, pairs_needed, power


def test_only_shared_seeds_are_paired_whatever_their_order():
    found = Paired.of({2: 5.0, 0: 1.0, 7: 9.0}, {0: 0.5, 2: 3.0, 4: 8.0})
    assert found.differences == (0.5, 2.0)
    assert (found.first.mean, found.second.mean, found.n) == (3.0, 1.75, 2)
    assert Paired.of({0: 1.0}, {1: 1.0}) is None


def test_the_interval_and_p_of_a_paired_t_test():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); t(0.975, 2) = 4.302653; t = 3.4641, p = 0.0742
    found = Paired.of({0: 1.0, 1: 2.0, 2: 3.0}, dict.fromkeys(range(3), 0.0))
    low, high = found.interval
    assert (low, high) == (pytest.approx(2 - 4.302653 / math.sqrt(3)), pytest.approx(2 + 4.302653 / math.sqrt(3)))
    assert found.p == pytest.approx(0.07418, abs=1e-5)


def test_the_sign_flip_test_counts_all_flips():
    three, six = (Paired.of({k: 1.0 + k for k in range(n)}, dict.fromkeys(range(n), 0.0)) for n in (3, 6))
    assert three.sign_flip_p == pytest.approx(2 / 8)  # the least that three pairs can give
    assert six.sign_flip_p == pytest.approx(2 / 64)


@pytest.mark.parametrize(("values", "p"), [([1.0], math.nan), ([0.0, 0.0], 1.0), ([2.0, 2.0], 0.0)])
def test_differences_without_spread_need_no_test(values, p):
    found = Paired.of(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    assert found.p == pytest.approx(p, nan_ok=True)
    assert math.isnan(found.interval[0]) == (len(values) == 1)


def test_a_value_that_is_not_finite_leaves_nothing_known():
    found = Paired.of({0: 1.0, 1: math.nan}, {0: 0.0, 1: 0.0})
    assert math.isnan(found.p) and math.isnan(found.sign_flip_p) and math.isnan(found.mean)


def test_holm_multiplies_the_least_p_by_all_and_counts_no_unknown():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    assert math.isnan(holm([math.nan])[0])


@pytest.mark.parametrize(("size", "n"), [(0.95, 6), (4.0, 4)])
def test_power_is_the_share_of_simulated_studies_that_find_the_difference(size, n):
    rng = np.random.default_rng(0)
    drawn = rng.normal(size, 1.2, (20_000, n))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / math.sqrt(n))
    critical = {6: 2.570582, 4: 3.182446}[n]
    assert power(size, 1.2, n, 0.05) == pytest.approx((abs(t) > critical).mean(), abs=0.01)


def test_power_is_known_for_any_size():
    assert all(0 < power(size, 1.0, n, 0.0167) <= 1 for n in (2, 3, 6) for size in (0.1, 1.0, 6.5, 60.0))
    assert math.isnan(power(1.0, math.nan, 3, 0.05)) and math.isnan(power(1.0, 1.0, 1, 0.05))


def test_pairs_needed_reach_the_wanted_power_and_one_fewer_does_not():
    needed = pairs_needed(0.95, 1.2, 0.05)
    assert power(0.95, 1.2, needed, 0.05) >= 0.8 > power(0.95, 1.2, needed - 1, 0.05)
