"""What a CUDA graph of a whole step would refuse: the same work in every step, but random state and the last read."""

import random

import pytest
import torch

from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack
from helpers.graph_refusals import Work, random_state_calls
from helpers.pretend_device import pretend_device
from helpers.reversible_helpers import Call, make_blocks, make_tokens

DEPTH = 5
# Stack: how it is built, and how many of its regions checkpoint recomputes, each with its random state.
STACKS = {
    "standard": (StandardStack, 0),
    "checkpoint": (CheckpointStack, DEPTH - 1),
    "bdia": (BdiaStack, DEPTH - 1),
    "bdia, keep 0": (lambda blocks: BdiaStack(blocks, keep=0), DEPTH),
    "bdia, stored": (lambda blocks: BdiaStack(blocks, backward="stored"), 0),
    "revvit, 9 bits": (lambda blocks: RevVitStack(blocks, 9), 2 * DEPTH),
}


def step(stack, seed):
    stack(make_tokens(seed)).square().sum().backward()


@pytest.mark.parametrize("name", STACKS)
def test_every_step_does_the_same_work_in_memory_of_the_same_sizes(monkeypatch, name):
    stack, found = STACKS[name][0](make_blocks(DEPTH, 0.1)), []
    step(stack, 0)  # the gradients' memory, the law's tables
    for seed in (1, 2):
        with pretend_device(monkeypatch), Work() as work:
            step(stack, seed)
        found.append(work.done)
    assert len(found[0]) > 50 and found[0] == found[1]


def test_work_that_depends_on_values_is_seen():
    found = []
    for last in (1.0, -1.0):
        with Work() as work:
            x = torch.tensor([1.0, last])
            x[x > 0].sum()
        found.append(work.done)
    assert found[0] != found[1]


@pytest.mark.parametrize("name", STACKS)
def test_random_state_is_read_and_set_once_for_each_recomputed_region_and_by_nothing_else(monkeypatch, name):
    build, regions = STACKS[name]
    stack = build(make_blocks(DEPTH, 0.1))
    step(stack, 0)
    with random_state_calls(monkeypatch) as calls:
        step(stack, 1)
    # Checkpoint: read in forward; in backward read again, set, and put back.
    counts = {name: calls.count(name) for name in set(calls)}
    assert counts == ({"get_rng_state": 2 * regions, "set_rng_state": 2 * regions} if regions else {})


def test_a_draw_of_python_s_random_numbers_is_seen(monkeypatch):
    block = Call(lambda self, x: x * random.random())
    with random_state_calls(monkeypatch) as calls:
        step(StandardStack([block]), 0)
    assert calls == ["random"]


@pytest.mark.parametrize(("settings", "waits"), [({}, 1), ({"quantize_eval": False}, 0)])
def test_inference_waits_for_the_device_only_where_it_checks_the_grid(monkeypatch, settings, waits):
    stack = BdiaStack(make_blocks(3), **settings).eval()
    with torch.no_grad(), pretend_device(monkeypatch) as found:
        stack(make_tokens())
    assert len(found) == waits, found
