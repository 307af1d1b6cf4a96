"""A step through many blocks from steps through a few: equal, to the byte, to the step traced as it is."""

import pytest

from bdia.profiling.alike import RUN, alike_moments
from bdia.profiling.config_steps import ConfigSteps
from bdia.profiling.moments import Moments
from bdia.profiling.planner import STACKS

MODELS = {  # overrides, batch, runs of blocks; AdamW updates all weights alike, SET-Adam goes through them in groups
    "vit_demo": (["model=vit_demo", "optimizer=adamw"], 128, 1),
    "gpt2_demo": (["model=gpt2_demo"], 8, 1),
    "gpt2_bf16": (["model=gpt2_demo", "trainer.precision=bf16-mixed", "optimizer=adamw"], 2, 1),
    "seq2seq_demo": (["model=seq2seq_demo"], 16, 2),
    "in_backward": (["model=gpt2_demo", "optimizer=adamw", "optimizer.in_backward=true"], 2, 1),
}
MORE = {
    "bdia keep 7": ("stack=bdia", "stack.keep=7"),
    "bdia attention": ("stack=bdia", "stack.keep=0", "stack.save=[attention]"),
    "checkpoint keep 0": ("stack=checkpoint", "stack.keep=0"),
}
NESTED = {"bdia nested": ("stack=bdia", "stack.keep=0", "stack.nested=[attn,mlp]")}  # branches of one-stack models
CASES = [
    (model, stack, overrides)
    for model, (_, _, runs) in MODELS.items()
    for stack, overrides in {**STACKS, **MORE, **(NESTED if runs == 1 else {})}.items()
    if not (model == "in_backward" and "bdia" not in stack)
]


def traced_and_extended(model, overrides, depth):
    """What the step costs, traced with all blocks and extended from a few."""
    choice, batch, runs = MODELS[model]
    steps, depths = ConfigSteps(choice, None, 10, None, "cuda"), (depth,) * runs
    traced = steps._trace(overrides, batch, depths).cost()
    assert max(sum(key[2]) for key in steps._moments) == depth * runs
    steps._moments.clear()
    found = steps.cost(overrides, batch, depths)
    return traced, found, max(sum(key[2]) for key in steps._moments)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [11, 12])  # both parities
@pytest.mark.parametrize(("model", "stack", "overrides"), CASES)
def test_a_step_extended_from_a_few_blocks_costs_what_the_traced_one_does(model, stack, overrides, depth):
    traced, found, blocks = traced_and_extended(model, overrides, depth)
    assert found == traced
    if stack not in ("checkpoint_two_level", "bdia keep 7"):
        assert blocks <= MODELS[model][2] * (RUN + 1) + 1  # one of them kept


def test_a_bdia_step_extended_from_a_few_blocks_costs_what_the_traced_one_does():
    traced, found, blocks = traced_and_extended("vit_demo", ("stack=bdia", "stack.keep=0"), 8)
    assert (found, blocks) == (traced, RUN + 1)


@pytest.mark.slow
def test_a_law_that_differs_by_block_is_traced_with_all_blocks():
    _, _, blocks = traced_and_extended("vit_demo", ("stack=bdia", "gamma@stack.gamma=growing"), 8)
    assert blocks == 8


def moments(operations, alive):
    totals = dict.fromkeys(("parameters", "optimizer", "other", "held", "flops"), 0)
    return Moments(operations, alive, [0] * len(alive), [0, len(alive)], totals)


def test_operations_that_are_in_no_run_are_not_extended():
    steps = {3: moments("abc", [1, 2, 3]), 4: moments("xyz", [1, 2, 3])}
    assert steps[3].extended([(steps[4], 7)]) is None


def test_blocks_are_counted_from_the_nearer_end():
    def trace(depths, keep):
        """A start, blocks that leave 10 bytes each and use 5 more, and an end that needs 3."""
        alive = [size for block in range(depths[0]) for size in (10 * block + 15, 10 * block + 10)]
        return moments(["start", *["up", "down"] * depths[0], "end"], [0, *alive, 10 * depths[0] + 3])

    assert alike_moments(trace, (100,)).cost().peak == trace((100,), 0).cost().peak == 1005


@pytest.mark.slow
@pytest.mark.parametrize("depth", [11, 12])
def test_blocks_in_tiles_are_extended_whose_weights_are_stepped_in_any_order(depth):
    tiled = ("stack=bdia", "stack.keep=0", "stack.tile={norm2+mlp:8,norm1+attn:4}")
    traced, found, blocks = traced_and_extended("in_backward", tiled, depth)
    assert (found, blocks) == (traced, RUN + 1)
