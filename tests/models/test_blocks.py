"""Blocks of the text models. B batch, T tokens, S source tokens, D width."""

import pytest
import torch
from torch import nn

from bdia.models.attention import CrossAttention, SelfAttention
from bdia.models.blocks import Block, DecoderBlock, MergeStreams, feed_forward
from bdia.reversible.stacks.branches import branches

B, T, S, D = 3, 5, 4, 8


def inputs(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decoder_block(dropout=0.0):
    torch.manual_seed(0)
    attention, cross = SelfAttention(D, 2, causal=True, dropout=dropout), CrossAttention(D, 2, dropout)
    return DecoderBlock(D, attention, cross, feed_forward(D, 16, dropout, hidden_dropout=dropout)).eval()


def memory_and_mask():
    mask = torch.arange(S) < torch.tensor([4, 2, 1])[:, None]
    return inputs(B, S, D, seed=2), mask[:, None, None]


def test_decoder_block_is_three_residual_steps():
    block, x, (memory, mask) = decoder_block(), inputs(B, T, D), memory_and_mask()
    y = x + block.attn(block.norm1(x))
    y = y + block.cross_attn(block.norm_cross(y), memory, mask)
    y = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(block(x, memory, mask), y, rtol=1e-5, atol=1e-6)


def test_a_decoder_blocks_branches_added_one_after_the_other_are_its_forward():
    block, x, (memory, mask) = decoder_block(), inputs(B, T, D), memory_and_mask()
    attention, mlp = branches(block)
    middle = x + attention(x, memory, mask)
    assert torch.equal(middle + mlp(middle, memory, mask), block(x, memory, mask))


@pytest.mark.parametrize("part", ["norm1", "attn", "norm_cross", "cross_attn", "norm2", "mlp"])
def test_every_part_of_a_decoder_block_counts(part):
    block, x, (memory, mask) = decoder_block(), inputs(B, T, D), memory_and_mask()
    before = block(x, memory, mask)
    with torch.no_grad():
        for parameter in getattr(block, part).parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(block(x, memory, mask), before, atol=1e-4)


def test_blocks_leave_their_input_alone():
    block, x, (memory, mask) = decoder_block(), inputs(B, T, D), memory_and_mask()
    before = x.clone(), memory.clone()
    block(x, memory, mask)
    Block(D, SelfAttention(D, 2, causal=False), feed_forward(D, 16, 0.0, 0.0))(x, mask=None)
    assert torch.equal(x, before[0]) and torch.equal(memory, before[1])


def test_feed_forward_has_its_two_dropout_rates_and_its_activation():
    mlp = feed_forward(D, 16, dropout=0.1, hidden_dropout=0.3, activation=nn.ReLU)
    assert (mlp.drop1.p, mlp.drop2.p) == (0.3, 0.1)
    x = inputs(B, T, D)
    torch.testing.assert_close(mlp.eval()(x), mlp.fc2(mlp.fc1(x).relu()))


def test_join_of_one_stream_is_the_plain_layer_norm():
    x = inputs(B, T, D)
    assert torch.equal(MergeStreams(D, 1)(x), nn.LayerNorm(D)(x))
    assert [name for name, _ in MergeStreams(D, 1).named_parameters()] == ["norm.weight", "norm.bias"]


def test_join_of_two_streams_returns_one_width_and_reads_both():
    torch.manual_seed(0)
    join, x = MergeStreams(D, 2), inputs(B, T, 2 * D)
    y = join(x)
    assert y.shape == (B, T, D)
    for stream in (slice(0, D), slice(D, None)):
        changed = x.clone()
        changed[..., stream] *= -1
        assert not torch.allclose(join(changed), y, atol=1e-3)
