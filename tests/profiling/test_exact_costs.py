"""What a training step costs on every stack of the registry, to the hundredth of a MiB: a change shows here first."""

import pytest

from bdia.build import compose
from bdia.profiling.traced_step import trace_step
from bdia.profiling.workload import build_workload
from bdia.reversible.stacks.registry import STACKS
from helpers.step_peaks import as_step

MIB = 2**20
SMALL = ("model=vit_demo", "model.net.depth=9", "model.net.width=32", "model.net.heads=2")
BATCH = 512  # so large that activations outweigh weights and optimizer state
# Overrides of a stack: peak of the step, MiB; held between forward and backward, MiB; FLOPs in units of standard's.
COSTS = {
    ("stack=standard",): (238.51, 225.58, 1.0),
    ("stack=checkpoint", "stack.keep=1"): (100.91, 87.97, 1.2363),
    ("stack=checkpoint_two_level",): (99.30, 64.40, 1.4431),
    ("stack=revvit",): (100.37, 64.46, 1.2660),
    ("stack=bdia", "stack.keep=0"): (100.40, 62.57, 1.2658),
    ("stack=bdia", "stack.keep=1"): (100.40, 80.80, 1.2363),
}


@pytest.fixture(scope="module")
def costs():
    """The traced step of every stack, in every way in which tables compare it."""
    compared = [overrides for row in STACKS for _, overrides in row.compared()]
    return {
        overrides: trace_step(lambda overrides=overrides: as_step(build_workload(compose([*SMALL, *overrides]), BATCH)))
        for overrides in compared
    }


def test_every_stacks_peak_held_bytes_and_flops_are_these(costs):
    standard = costs["stack=standard",].flops
    found = {
        overrides: (round(cost.peak / MIB, 2), round(cost.held / MIB, 2), round(cost.flops / standard, 4))
        for overrides, cost in costs.items()
    }
    assert found == COSTS


def test_a_recomputing_stack_does_at_most_one_forward_more_and_the_two_level_one_at_most_two(costs):
    standard = costs["stack=standard",].flops
    most = {("stack=standard",): 1, ("stack=checkpoint_two_level",): 5 / 3}
    assert all(cost.flops <= most.get(overrides, 4 / 3) * standard for overrides, cost in costs.items())
