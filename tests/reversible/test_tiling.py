"""Submodules in parts (`stack.tile`): the bits of stored parts, the gradients of no parts, one part's memory."""

import pytest
import torch
from torch import nn

import bdia
from bdia.models.attention import SelfAttention
from bdia.models.blocks import Block, feed_forward
from bdia.models.layers import LocalitySelfAttention
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack
from bdia.reversible.engine.submodules import changed_submodules
from helpers.reversible_helpers import (
    HALF,
    D,
    PeakStorages,
    assert_bit_equal,
    gradients,
    loss_of,
    make_blocks,
    make_tokens,
)

TILES = [
    {"mlp": 3},  # five tokens: uneven tiles
    {"norm2+mlp": 2},
    {"norm1": 2, "norm2+mlp": 9},  # more tiles than tokens
    {"mlp": 2, "attn.proj": 2},
]


def own_blocks(depth, dropout=0.0, attention=None):
    """Blocks of this project's models, whose attention runs in groups of heads."""
    torch.manual_seed(0)
    make = attention or (lambda: SelfAttention(D, 4, causal=True, dropout=dropout, attention_dropout=dropout))
    return [Block(D, make(), feed_forward(D, 2 * D, dropout, hidden_dropout=dropout)) for _ in range(depth)]


HEADS = [{"attn": 4}, {"norm1+attn": 3, "norm2+mlp": 2}, {"norm1+attn": 9}]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"keep": 0}, {"keep": [1]}, {"keep": 0, "save": ["matmul"]}], ids=str)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_parts_that_are_recomputed_give_the_bits_of_stored_parts_dropout_included(tile, settings, autocast):
    blocks, x = make_blocks(3, 0.1), make_tokens()
    wanted = gradients(BdiaStack(blocks, HALF, backward="stored", tile=tile), x, autocast=autocast)
    assert_bit_equal(gradients(BdiaStack(blocks, HALF, tile=tile, **settings), x, autocast=autocast), wanted)


@pytest.mark.parametrize("nested", [[], ["norm2+mlp"]], ids=str)
@pytest.mark.parametrize("tile", HEADS, ids=str)
def test_groups_of_heads_that_are_recomputed_give_the_bits_of_stored_ones(tile, nested):
    blocks, x = own_blocks(3, 0.1), make_tokens()
    wanted = gradients(BdiaStack(blocks, HALF, backward="stored", tile=tile), x)
    assert_bit_equal(gradients(BdiaStack(blocks, HALF, keep=0, tile=tile, nested=nested), x), wanted)


@pytest.mark.parametrize("stack", [CheckpointStack, RevVitStack])
def test_the_baselines_run_in_parts_too(stack):
    blocks, x = own_blocks(3), make_tokens()
    tile, exact = {"norm1+attn": 2, "norm2+mlp": 3}, {"grid_bits": 9} if stack is RevVitStack else {}
    wanted = gradients(stack(blocks, keep=3, tile=tile, **exact), x)
    assert_bit_equal(gradients(stack(blocks, keep=0, tile=tile, **exact), x), wanted)


@pytest.mark.parametrize(
    ("blocks", "tile"),
    [
        (make_blocks, {"norm2+mlp": 3, "norm1": 2}),
        (own_blocks, {"norm1+attn": 4, "mlp": 2}),
        (lambda depth: own_blocks(depth, attention=lambda: LocalitySelfAttention(D, 4, 4)), {"norm1+attn": 2}),
    ],
    ids=["tokens", "heads", "heads with a temperature"],
)
def test_parts_change_outputs_and_gradients_by_rounding_only(blocks, tile):
    """A shared weight's gradient is the sum over tiles, once: not the last tile's, not counted twice."""
    blocks, x = blocks(3), make_tokens()
    whole, parts = (gradients(CheckpointStack(blocks, keep=0, tile=t), x) for t in (None, tile))
    for found, wanted in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_modules_and_weights_that_are_used_twice_get_the_gradients_of_both_uses():
    blocks, x = make_blocks(3), make_tokens()
    blocks[2].mlp = blocks[0].mlp
    blocks[1].mlp[2].weight = blocks[1].mlp[0].weight  # tied within one submodule
    tile = {"norm2+mlp": 3}
    stored, found = (gradients(BdiaStack(blocks, HALF, 9, 0, way, tile=tile), x) for way in ("stored", "reversible"))
    assert_bit_equal(found, stored)
    for tiled, whole in zip(
        gradients(CheckpointStack(blocks, 0, tile=tile), x), gradients(StandardStack(blocks), x), strict=True
    ):
        torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-4)


class Gate(nn.Module):
    """Token by token, with a tensor for each token and one for all, by keyword."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, *, x, scale, shift):
        return self.linear(x) * scale + shift


class KeywordBlock(nn.Module):
    """Calls its submodule by keyword."""

    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x, shift):
        return x + self.gate(x=x, scale=x.sin(), shift=shift)


def test_tensors_for_each_token_are_cut_and_others_shared_also_by_keyword():
    torch.manual_seed(0)
    blocks, x, shift = [KeywordBlock() for _ in range(3)], make_tokens(), torch.randn(D, requires_grad=True)
    found = [
        gradients(CheckpointStack(blocks, keep=0, tile=tile), x, shift, extra=(shift,)) for tile in (None, {"gate": 3})
    ]
    for tiled, whole in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


def test_frozen_weights_get_no_gradient_and_the_others_theirs():
    blocks, x = make_blocks(3, 0.1), make_tokens()
    blocks[0].requires_grad_(False)
    for block in blocks:
        block.mlp[0].weight.requires_grad_(False)
    wanted = gradients(BdiaStack(blocks, HALF, backward="stored", tile={"mlp": 2}), x)
    found = gradients(BdiaStack(blocks, HALF, keep=0, tile={"mlp": 2}), x)
    assert_bit_equal(found, wanted)
    assert blocks[1].mlp[0].weight.grad is None and blocks[1].mlp[2].weight.grad is not None


# --- sums of weights' gradients in float32 ---


def weight_gradient(tile, dtype, autocast):
    """The gradient of a weight that 256 tokens share, each of which sends it a gradient of 1.001 or so."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(1, 1, bias=False)).to(dtype)
    nn.init.ones_(layer[0].weight)
    x = (1 + torch.rand(1, 256, 1) / 64).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), changed_submodules(layer, tile=tile):
        layer(x.requires_grad_()).float().sum().backward()
    return layer[0].weight.grad.float().item(), x.float().sum().item()


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, True), (torch.bfloat16, False)], ids=["amp", "bf16"])
def test_gradients_of_tiles_are_added_in_float32(dtype, autocast):
    """In bfloat16 a sum of ones stops at 256: 1 more is lost to rounding; of 1.008 it is wrong from 128 on."""
    found, true = weight_gradient({"0": 256}, dtype, autocast)
    assert abs(found - true) <= 2**-8 * true


# --- what cannot run in parts ---


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        ({"feed": 2}, r"tile=\{'feed': 2\}: .*block 0.*'attn'.*'mlp'.*stack\.tile"),
        ({"mlp": 0}, r"tile=\{'mlp': 0\}: wanted .*\{mlp: 4\}; set stack\.tile"),
        ({"mlp": True}, r"numbers of parts"),
        (["mlp"], r"tile=\['mlp'\]"),
        ({"mlp": 2, "norm2+mlp": 2}, r"mlp lies in another"),
        ({"mlp": 2, "mlp.0": 2}, r"mlp\.0 lies in another"),
        (
            {"norm1+mlp": 2},
            r"nested=\['mlp'\] and tile name mlp differently, \['norm1\+mlp'\]: give both the same name",
        ),
        ({"attn": 2}, r"attn cannot run in tiles of tokens, TinyAttention mixes them: .*stack\.nested"),
    ],
)
def test_names_that_cannot_run_in_parts_are_refused(tile, message):
    with pytest.raises(ValueError, match=message):
        BdiaStack(make_blocks(2), tile=tile, nested=["mlp"])


def test_a_norm_over_samples_is_refused_by_name():
    blocks = make_blocks(2)
    blocks[1].mlp = nn.Sequential(nn.BatchNorm1d(D))
    with pytest.raises(ValueError, match=r"mlp cannot run in tiles of tokens, BatchNorm1d mixes them"):
        CheckpointStack(blocks, tile={"mlp": 2})


class Shift(nn.Module):
    """Sees the token before: nothing in its name says so."""

    def forward(self, x):
        return x.roll(1, 1)


def test_a_submodule_that_mixes_tokens_is_found_when_it_runs():
    blocks = make_blocks(2)
    blocks[1].mlp = Shift()
    with pytest.raises(RuntimeError, match=r"tile: Shift computes something else .*leave it out of tile"):
        BdiaStack(blocks, tile={"mlp": 2})(make_tokens())


def test_a_norm_that_does_not_feed_the_submodule_is_refused():
    stack = BdiaStack(make_blocks(2), tile={"norm1+mlp": 2})
    with pytest.raises(RuntimeError, match=r"norm1\+mlp: mlp was not called with the output of norm1"):
        stack(make_tokens())


def test_attention_with_another_projection_than_a_linear_layer_is_refused():
    blocks = own_blocks(1)
    blocks[0].attn.qkv = nn.Sequential(blocks[0].attn.qkv)
    with pytest.raises(RuntimeError, match=r"qkv is Sequential, wanted a plain nn\.Linear.*stack\.nested"):
        BdiaStack(blocks, tile={"attn": 2})(make_tokens())


# --- convert, evaluation, memory ---


def test_a_converted_model_runs_in_parts_and_is_itself_in_evaluation():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, 2, 2 * D, 0.1, batch_first=True, norm_first=True)
    model, x = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), make_tokens()
    whole = model.eval()(x)
    tile = {"linear1": 2, "norm2": 3}
    bdia.convert(model.train(), tile=tile, backward="stored")
    wanted = gradients(model, x)
    bdia.revert(model)
    bdia.convert(model, tile=tile)
    assert_bit_equal(gradients(model, x), wanted)
    assert torch.equal(model.eval()(x), whole)
    bdia.revert(model)
    with pytest.raises(ValueError, match=r"tile=\{'feed': 2\}.*set tile"):
        bdia.convert(model, tile={"feed": 2})


def test_parts_leave_the_modules_as_they_were():
    (block,) = own_blocks(1)
    with changed_submodules(block, ["norm1+attn"], {"norm2+mlp": 2}):
        assert all("forward" in module.__dict__ for module in (block.norm1, block.attn, block.norm2, block.mlp))
    assert not any("forward" in module.__dict__ for module in block.modules())


def peak(stack, shape=(2, 64, 64)):
    """Streams at the peak of a forward and backward; each weight's gradient is dropped at once."""
    x = torch.zeros(shape)
    for parameter in stack.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with PeakStorages(stack, x) as live:
        loss_of(stack(x).mul(1.0)).backward()
    return live.peak / x.nbytes


def test_parts_peak_lower_and_hold_nothing_per_block():
    def wide(depth):
        torch.manual_seed(0)
        return [Block(64, SelfAttention(64, 4, causal=True), feed_forward(64, 256, 0.0, 0.0)) for _ in range(depth)]

    tile = {"norm2+mlp": 8, "norm1+attn": 4}
    whole = peak(BdiaStack(wide(4), keep=0, nested=["attn", "mlp"]))
    tiled, deeper = (peak(BdiaStack(wide(depth), keep=0, nested=["norm1+attn"], tile=tile)) for depth in (4, 8))
    assert tiled < whole - 6
    assert deeper - tiled < 4 / 32 + 0.05  # the bits of four more streams
