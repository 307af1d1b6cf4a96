"""The order of the rounds, and what is timed."""

import time
from collections import Counter
from itertools import pairwise

import pytest
import torch

from bdia.bench.rounds import elapsed_ms, interleave, orders

CPU = torch.device("cpu")


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
    elapsed_ms(lambda: ran.append(1), CPU, inner=3)
    assert len(ran) == 3
    assert 10 <= elapsed_ms(lambda: time.sleep(0.01), CPU, inner=3) < 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_time_covers_the_kernels_and_not_only_their_launch():
    device = torch.device("cuda")
    x = torch.randn(8192, 8192, device=device)
    elapsed_ms(lambda: x @ x, device)
    assert elapsed_ms(lambda: x @ x, device, inner=5) > 1  # 1.1e12 operations; a launch takes microseconds
