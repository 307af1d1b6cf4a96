"""Two-level checkpointing has the gradients of the standard stack bit for bit, and needs less memory than plain."""

import pytest
import torch
from torch import nn

from bdia.reversible import CheckpointStack, StandardStack, TwoLevelCheckpointStack
from helpers.reversible_helpers import (
    Call,
    PeakStorages,
    assert_bit_equal,
    bytes_held,
    gradients,
    loss_of,
    make_blocks,
    make_tokens,
    small_blocks,
)

SHAPE = (8, 64, 1024)
STREAM = 4 * 8 * 64 * 1024  # bytes of one residual stream
RANDOM_STATE = torch.get_rng_state().nbytes  # which checkpoint keeps at every call


def bytes_at_the_peak(stack):
    """Most bytes alive at once in a forward and a backward."""
    x = torch.zeros(SHAPE)
    with PeakStorages(stack, x) as live:
        stack(x).sum().backward()
    return live.peak


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_gradients_equal_those_of_the_standard_stack_bit_for_bit(depth, dropout, autocast):
    blocks, x = make_blocks(depth, dropout), make_tokens()
    wanted = gradients(StandardStack(blocks), x, autocast=autocast)
    assert_bit_equal(gradients(TwoLevelCheckpointStack(blocks), x, autocast=autocast), wanted)


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5])
def test_any_number_of_segments_gives_the_same_bits_also_where_it_does_not_divide_the_depth(segments):
    blocks, x, context = make_blocks(5, 0.1, 0.1), make_tokens(), make_tokens(2)
    wanted = gradients(StandardStack(blocks), x, context=context, extra=[context])
    assert_bit_equal(gradients(TwoLevelCheckpointStack(blocks, segments), x, context=context, extra=[context]), wanted)


@pytest.mark.parametrize(("depth", "segments"), [(1, 1), (2, 1), (3, 2), (6, 2), (12, 3), (24, 5), (48, 7)])
def test_the_number_of_segments_is_about_the_square_root_of_the_depth(depth, segments):
    assert TwoLevelCheckpointStack(make_blocks(depth)).segments == segments


def test_a_buffer_changes_once_in_a_step_as_in_the_standard_stack():
    def with_norm():
        return [nn.Sequential(block, nn.BatchNorm1d(5)) for block in make_blocks(5)]

    stacks = StandardStack(with_norm()), TwoLevelCheckpointStack(with_norm())
    for stack in stacks:
        loss_of(stack(make_tokens())).backward()
    wanted, found = ([buffer.clone() for buffer in stack.buffers()] for stack in stacks)
    assert_bit_equal(found, wanted)


def test_each_block_runs_three_times_and_the_last_of_a_segment_twice():
    # Recomputing a segment stops before its last block, whose input is all that is needed.
    runs = []
    blocks = [
        Call(lambda self, x, k=k: (runs.append(k), x + torch.sin(x * self.weight))[1], SHAPE[-1]) for k in range(6)
    ]
    stack = TwoLevelCheckpointStack(blocks)
    loss_of(stack(torch.zeros(2, 3, SHAPE[-1]))).backward()
    assert [runs.count(k) for k in range(6)] == [3, 3, 2, 3, 3, 2]
    assert runs[6:] == [3, 4, 5, 4, 3, 0, 1, 2, 1, 0]


def test_between_forward_and_backward_one_stream_per_segment_is_held():
    plain, two_level = (
        CheckpointStack(small_blocks(24, SHAPE[-1]), keep=0),
        TwoLevelCheckpointStack(small_blocks(24, SHAPE[-1])),
    )
    assert bytes_held(plain, SHAPE) == 24 * STREAM + 24 * RANDOM_STATE
    assert bytes_held(two_level, SHAPE) == 5 * STREAM + (5 + 24) * RANDOM_STATE


def test_at_24_blocks_the_peak_of_a_step_is_11_streams_where_plain_checkpointing_needs_26():
    plain = bytes_at_the_peak(CheckpointStack(small_blocks(24, SHAPE[-1]), keep=0))
    two_level = bytes_at_the_peak(TwoLevelCheckpointStack(small_blocks(24, SHAPE[-1])))
    assert plain // STREAM == 26 and plain % STREAM < 0.02 * STREAM  # random states, gradients of the weights
    assert two_level // STREAM == 11 and two_level % STREAM < 0.02 * STREAM


@pytest.mark.parametrize("segments", [0, -1, 4, 2.0, True, "2"])
def test_a_number_of_segments_that_cannot_be_is_refused_with_the_key(segments):
    with pytest.raises(ValueError, match=r"segments=.*: wanted a whole number from 1 to 3, .*set stack\.segments"):
        TwoLevelCheckpointStack(make_blocks(3), segments)
