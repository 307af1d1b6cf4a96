"""What the stacks hold, counted in live bytes of tensor storages. N = B*T*D values make one stream."""

import gc

import pytest
import torch

from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack, TwoPoint
from helpers.reversible_helpers import (
    Call,
    LiveStorages,
    PeakStorages,
    bend,
    bytes_held,
    loss_of,
    make_blocks,
    make_tokens,
    small_blocks,
)

SHAPE = (8, 64, 1024)
N = 8 * 64 * 1024  # large enough that the random state checkpoint keeps per block (5 kB) is small beside N / 8
FLOATS = 4 * N


def held(make, depth):
    """`bytes_held` of a stack of so many small blocks."""
    return bytes_held(make(small_blocks(depth, SHAPE[-1])), SHAPE)


def bits_per_activation_and_block(make):
    return 8 * (held(make, 12) - held(make, 4)) / 8 / N


@pytest.mark.parametrize(("value", "side_bits"), [("1/2", 1), ("1/4", 2), ("3/5", 3), ("1", 0)])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_bdia_block_holds_its_side_information_and_nothing_else(value, side_bits, keep):
    found = bits_per_activation_and_block(lambda blocks: BdiaStack(blocks, TwoPoint(value), keep=keep))
    assert side_bits <= found < side_bits + 0.2


def test_a_checkpointed_block_holds_one_float_per_activation():
    assert 32 <= bits_per_activation_and_block(CheckpointStack) < 32.2


def test_a_standard_block_and_a_stored_bdia_block_hold_all_their_activations():
    assert bits_per_activation_and_block(StandardStack) >= 64
    assert bits_per_activation_and_block(lambda blocks: BdiaStack(blocks, backward="stored")) >= 64


def test_depth_adds_nothing_to_revvit():
    # Each branch of the two in a block keeps the random state that checkpoint replays, hence 0.2.
    class Half(Call):
        def branches(self):
            return [lambda x: torch.sin(x * self.weight)] * 2

    def make(blocks):
        return RevVitStack([Half(None, SHAPE[-1]) for _ in blocks], grid_bits=9)

    assert bits_per_activation_and_block(make) < 0.2


def test_bdia_holds_two_streams_beside_side_information_and_kept_blocks():
    assert held(lambda blocks: BdiaStack(blocks, keep=0), 8) < 2 * FLOATS + 8 * 1.2 * N / 8


def test_the_peak_of_a_training_step_hardly_grows_with_depth():
    def peak(make, depth):
        stack, x = make(small_blocks(depth, SHAPE[-1])), torch.zeros(SHAPE)
        with PeakStorages(stack, x) as live:
            stack(x).sum().backward()
        return live.peak

    growth = {
        name: (peak(make, 20) - peak(make, 8)) / 12 for name, make in [("bdia", BdiaStack), ("standard", StandardStack)]
    }
    assert 8 * growth["bdia"] / N < 1.2  # bits: states are freed on the way back as they are rebuilt
    assert 8 * growth["standard"] / N >= 64


@pytest.mark.parametrize("frozen", [0, 2])
def test_backward_holds_as_many_streams_at_every_block(frozen):
    """Count, at every block's backward, the tensors of a stream's size: streams, gradients, one block's activations."""
    seen = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(sum(size >= FLOATS for size in live.sizes()))
            return grad

    blocks = [Call(lambda self, x: Probe.apply(bend(self, x)), SHAPE[-1]) for _ in range(10)]
    for block in blocks[:frozen]:
        block.requires_grad_(False)
    stack, x = BdiaStack(blocks, keep=0), torch.zeros(SHAPE)
    with LiveStorages(stack, x) as live:
        stack(x).sum().backward()
    assert len(seen) == 10 - frozen
    assert set(seen[1:-1]) == {6} and max(seen) == 6  # fewer at both ends of the chain


STACKS = {
    "bdia": lambda blocks: BdiaStack(blocks),
    "bdia keep 0": lambda blocks: BdiaStack(blocks, keep=0),
    "bdia stored": lambda blocks: BdiaStack(blocks, backward="stored"),
    "bdia float": lambda blocks: BdiaStack(blocks, bits=None),
    "checkpoint": CheckpointStack,
    "revvit": lambda blocks: RevVitStack(blocks),
    "revvit grid": lambda blocks: RevVitStack(blocks, grid_bits=9),
}
every_stack = pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)


@every_stack
def test_many_forwards_without_a_backward_hold_no_more_than_one(make):
    stack, x = make(make_blocks(4, 0.1)), make_tokens()
    totals = []
    gc.collect()
    gc.disable()  # nothing may wait for the garbage collector
    try:
        with LiveStorages(stack, x) as live:
            for _ in range(20):
                out = stack(x)
                totals.append(live.census())
            del out
            left = live.census()
    finally:
        gc.enable()
    assert totals[0] > 0 and max(totals[1:]) == totals[1]
    assert left == 0


@every_stack
def test_after_backward_nothing_but_gradients_stays(make):
    stack, x = make(make_blocks(4, 0.1)), make_tokens()
    with LiveStorages(stack, x) as live:
        loss_of(stack(x)).backward()
        gc.collect()
        left = live.total()
    gradients = sum(t.grad.untyped_storage().nbytes() for t in (x, *stack.parameters()))
    errors = sum(t.untyped_storage().nbytes() for t in getattr(stack, "reconstruction_error", {}).values())
    assert left == gradients + errors


@every_stack
@pytest.mark.parametrize("learned", [True, False])
def test_a_loss_kept_after_backward_keeps_no_activations(make, learned):
    stack, x = make(make_blocks(4)), make_tokens().requires_grad_(learned)
    with LiveStorages(stack, x) as live:
        loss = loss_of(stack(x))
        loss.backward()
        gc.collect()
        left = live.total()
    assert left < sum(p.numel() * 4 for p in stack.parameters()) + learned * x.numel() * 4 + 200


def test_training_mode_without_gradients_holds_the_output_only():
    stack, x = BdiaStack(small_blocks(6, SHAPE[-1])), torch.zeros(SHAPE)
    with LiveStorages(stack, x) as live, torch.no_grad():
        out = stack(x)
        gc.collect()
        assert live.total() == FLOATS == out.untyped_storage().nbytes()


def test_frozen_first_blocks_hold_nothing():
    def make(frozen):
        blocks = small_blocks(12, SHAPE[-1])
        for block in blocks[:frozen]:
            block.requires_grad_(False)
        return BdiaStack(blocks)

    assert held(lambda _: make(8), 12) < held(lambda _: make(0), 12) - 5 * N / 8


def test_an_exception_in_a_block_leaves_nothing_behind():
    def fails(self, x):
        raise ValueError("stop")

    stack, x = BdiaStack([*make_blocks(3), Call(fails)]), make_tokens()
    with LiveStorages(stack, x) as live:
        with pytest.raises(ValueError, match="stop"):
            stack(x)
        gc.collect()
        assert live.total() == 0
