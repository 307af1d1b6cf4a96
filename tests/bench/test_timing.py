"""The order of the rounds, what is timed, and what the times say."""

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from bdia.bench.timing import Times, elapsed_ms, falls, interleave, orders, ratios, rises

CPU = torch.device("cpu")
TIMES = (3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0)


@pytest.mark.parametrize("count", range(1, 11))
def test_every_round_holds_every_variant_once_and_every_place_comes_to_everyone(count):
    names = list(range(count))
    rounds = list(orders(names, count))
    assert all(sorted(order) == names for order in rounds)
    assert all(sorted(place) == names for place in zip(*rounds, strict=True))


@pytest.mark.parametrize("count", range(3, 11))
def test_no_variant_always_follows_the_same_one(count):
    followed = Counter(pair for order in orders(list(range(count)), count) for pair in pairwise(order))
    assert max(followed.values()) <= (1 if count % 2 == 0 else 2)


def test_two_variants_swap_places():
    assert list(orders(["a", "b"], 3)) == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_variants_are_interleaved_and_each_has_one_time_per_round():
    ran = []
    steps = {name: lambda name=name: ran.append(name) for name in "abc"}
    times = interleave(steps, 7, CPU)
    assert ran == [name for order in orders("abc", 7) for name in order]
    assert {name: len(ms) for name, ms in times.items()} == {"a": 7, "b": 7, "c": 7}


def test_a_time_is_milliseconds_per_step():
    assert 10 <= elapsed_ms(lambda: time.sleep(0.01), CPU) < 200
    ran = []
    elapsed_ms(lambda: ran.append(1), CPU, steps_per_timing=3)
    assert len(ran) == 3
    assert 10 <= elapsed_ms(lambda: time.sleep(0.01), CPU, steps_per_timing=3) < 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_time_covers_the_kernels_and_not_only_their_launch():
    device = torch.device("cuda")
    x = torch.randn(8192, 8192, device=device)
    elapsed_ms(lambda: x @ x, device)
    assert elapsed_ms(lambda: x @ x, device, steps_per_timing=5) > 1  # 1.1e12 operations; a launch takes microseconds


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
