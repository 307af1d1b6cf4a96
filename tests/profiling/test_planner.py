"""Planner: what it says fits was measured, and what it says to paste is what it counted."""

import pytest

import bdia.profiling.planner
from bdia.build import compose
from bdia.profiling.planner import STACKS, Planner
from bdia.profiling.sizes import format_bytes
from bdia.profiling.workload import build_workload
from helpers.step_peaks import as_step, measured_peak

pytestmark = pytest.mark.slow  # every answer is some ten traced steps

SMALL = (
    "model=vit_demo",
    "model.net.width=32",
    "model.net.heads=2",
    "model.net.tokenizer._target_=timm.layers.PatchEmbed",  # shifted patches would outweigh such small blocks
    "optimizer=adamw",
)
TEXT = ("model=gpt2_demo", "model.net.width=32", "optimizer=adamw")


def measured(batch, depth, *overrides, tokens=None, **sizes):
    keys = [f"model.net.depth={depth}"]
    return measured_peak(as_step(build_workload(compose([*overrides, *keys]), batch, tokens, **sizes))).peak


def by_name(stacks):
    return {stack.name: stack for stack in stacks}


@pytest.fixture(scope="module")
def plan():
    """The small model at batch 16, in four fifths of what the standard stack needs."""
    planner = Planner(SMALL, 16, depth=4)
    return planner.plan(int(0.8 * planner.standard.peak))


@pytest.mark.parametrize("row", range(len(STACKS)))
def test_the_largest_batch_and_depth_fit_as_measured_and_the_next_do_not(plan, row, one_thread):
    stack = plan.stacks[row]
    small = (*SMALL, *stack.overrides)
    assert measured(16, 4, *small) == pytest.approx(stack.cost.peak, rel=0.001)
    assert measured(stack.largest_batch, 4, *small) <= plan.memory < measured(stack.largest_batch + 1, 4, *small)
    assert measured(16, stack.largest_depth, *small) <= plan.memory < measured(16, stack.largest_depth + 1, *small)


def test_of_a_stack_whose_blocks_are_not_alike_a_large_depth_lies_on_a_line(plan, monkeypatch):
    monkeypatch.setattr(bdia.profiling.planner, "TRACED_BLOCKS", 5)
    found = Planner((*SMALL, "stack=checkpoint_two_level"), 16, depth=4).plan(plan.memory).stacks[1]
    traced = by_name(plan.stacks)["checkpoint_two_level"]
    assert (found.depth_is_traced, traced.depth_is_traced) == (False, True)
    assert found.largest_depth == pytest.approx(traced.largest_depth, abs=1)


def test_bdia_goes_deeper_than_what_stores_a_stream_per_block_and_standard_is_the_unit_of_flops():
    planner = Planner(SMALL, 128, depth=4)  # at a batch of 16 the weights of a block outweigh its activations
    stacks = by_name(planner.plan(int(0.8 * planner.standard.peak)).stacks)
    standard, checkpointing = stacks["standard"], stacks["checkpoint keep 1"]
    bdia, kept = stacks["bdia keep 0"], stacks["bdia keep 1"]
    assert standard.relative_flops == 1
    assert 1 < kept.relative_flops < bdia.relative_flops <= 4 / 3
    assert checkpointing.relative_flops == kept.relative_flops
    assert standard.largest_depth < checkpointing.largest_depth < min(kept.largest_depth, bdia.largest_depth)
    assert bdia.held_per_block < standard.held_per_block / 30


def test_the_policy_is_standard_where_it_fits():
    planner = Planner((*SMALL, "stack=bdia"), 16, depth=4)
    policy = planner.plan(planner.standard.peak).policy
    assert (policy.overrides, policy.relative_flops) == (("stack=standard",), 1)


def test_the_policy_keeps_as_many_blocks_as_fit(plan, one_thread):
    stacks = by_name(plan.stacks)
    assert stacks["standard"].cost.peak > plan.memory
    policy = plan.policy
    keep = int(policy.overrides[-1].removeprefix("stack.keep="))
    assert policy.overrides == ("stack=bdia", f"stack.keep={keep}")
    assert 0 < keep < 4
    assert policy.cost.peak == pytest.approx(measured(16, 4, *SMALL, *policy.overrides), rel=0.001)
    assert policy.cost.peak <= plan.memory < measured(16, 4, *SMALL, "stack=bdia", f"stack.keep={keep + 1}")
    assert 1 < policy.relative_flops < stacks["bdia keep 0"].relative_flops


def test_the_policy_shrinks_the_batch_where_no_number_of_blocks_helps(plan, one_thread):
    policy = Planner((*SMALL, "stack=bdia"), 512, depth=4).plan(plan.memory).policy
    batch = int(policy.overrides[-1].removeprefix("data.batch_size="))
    assert policy.overrides[0] == "stack=bdia"
    assert 16 < batch < 512
    assert measured(batch, 4, *SMALL, *policy.overrides) <= plan.memory


def test_memory_that_no_batch_fits_names_value_and_need():
    with pytest.raises(ValueError, match=r"memory=10\.0 KiB: not even a batch of 1 fits, .* needs .*set memory"):
        Planner(SMALL, 16, depth=1).plan(10 * 2**10)


def test_a_stack_of_ones_own_takes_the_place_of_the_others():
    plan = Planner((*SMALL, "stack=bdia", "++stack.keep=[0]", "stack.save=[attention]"), 16, depth=3).plan()
    assert [stack.name for stack in plan.stacks] == ["standard", "stack=bdia ++stack.keep=[0] stack.save=[attention]"]
    assert 1 < plan.stacks[1].relative_flops < 4 / 3


def test_a_stack_that_cannot_take_the_model_says_why():
    tiny = ("model=timm_vit", "+model.net.embed_dim=24", "+model.net.num_heads=2", "optimizer=adamw")
    plan = Planner(tiny, 2, depth=2).plan()
    assert "set stack.merge=mean" in by_name(plan.stacks)["revvit"].refused
    assert [stack.name for stack in plan.stacks if stack.cost is None] == ["revvit"]
    assert plan.blocks == (2,)


def test_an_encoder_decoders_depth_is_that_of_each_half_and_its_batch_is_a_budget_of_tokens():
    tiny = ("model=seq2seq_demo", "model.net.width=32", "optimizer=adamw")
    planner = Planner(tiny, 64, tokens=12, depth=2, vocab_size=64)
    plan = planner.plan(int(0.3 * planner.standard.peak))
    assert plan.blocks == (2, 2)
    key, batch = plan.policy.overrides[-1].split("=")
    assert key == "data.token_budget"
    assert int(batch) % (12 + 13) == 0


def test_tokens_and_vocabulary_are_those_asked_for(one_thread):
    cost = Planner((*TEXT, "trainer.precision=bf16-mixed"), 4, tokens=16, depth=2, vocab_size=99).standard
    bf16 = (*TEXT, "trainer.precision=bf16-mixed", "stack=standard")
    assert cost.peak == pytest.approx(measured(4, 2, *bf16, tokens=16, vocab_size=99), rel=0.001)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=nonesuch"], r"model=nonesuch: no such file in configs/model"),
        (["model=vit_demo", "optimizer.momentum=1"], r"momentum"),
        (["model=vit_demo", "stack=bdia", "stack.memory_budget=1GiB"], r"set memory to the same amount"),
        (["model=vit_demo", "stack=bdia", "++stack.memory_budget=1GiB"], r"set memory to the same amount"),
    ],
)
def test_what_does_not_compose_is_one_error(overrides, message):
    with pytest.raises(ValueError, match=message):
        Planner(overrides, 1)


def test_the_largest_vit_of_the_configs_has_304_million_parameters():
    planner = Planner(["model=vit_large"], 1, num_classes=1000)
    assert planner.parameters == 304_252_904
    assert format_bytes(planner.standard.parameters) == "1.13 GiB"
