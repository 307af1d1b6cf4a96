"""Attention of text models and its key/value cache. B batch, T tokens, S source tokens, D width."""

import pytest
import torch

from bdia.models.attention import CrossAttention, KeyValueCache, SelfAttention

B, T, S, D = 3, 6, 4, 8


def inputs(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def self_attention(causal=True, **options):
    torch.manual_seed(0)
    return SelfAttention(D, 2, causal, **options).eval()


def cross_attention():
    torch.manual_seed(0)
    return CrossAttention(D, 2).eval()


def plain_attention(q, k, v, heads, mask):
    """softmax(q k^T / sqrt(D / H)) v, head by head; q, k, v (B, tokens, D), mask (T, S) or (B, 1, S)."""
    outs = []
    for head_q, head_k, head_v in zip(*(x.chunk(heads, dim=2) for x in (q, k, v)), strict=True):
        logits = head_q @ head_k.mT / head_q.shape[2] ** 0.5
        outs.append(logits.masked_fill(~mask, -torch.inf).softmax(dim=2) @ head_v)
    return torch.cat(outs, dim=2)


def test_causal_self_attention_is_the_textbook_formula():
    layer, x = self_attention(), inputs(B, T, D)
    wanted = layer.proj(plain_attention(*layer.qkv(x).chunk(3, dim=2), 2, torch.ones(T, T, dtype=torch.bool).tril()))
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-6)


def test_masked_self_attention_is_the_textbook_formula():
    layer, x = self_attention(causal=False), inputs(B, S, D)
    mask = torch.arange(S) < torch.tensor([4, 2, 1])[:, None]
    wanted = layer.proj(plain_attention(*layer.qkv(x).chunk(3, dim=2), 2, mask[:, None]))
    torch.testing.assert_close(layer(x, mask[:, None, None]), wanted, rtol=1e-5, atol=1e-6)


def test_cross_attention_is_the_textbook_formula():
    layer, x, memory = cross_attention(), inputs(B, T, D), inputs(B, S, D, seed=2)
    mask = torch.arange(S) < torch.tensor([4, 2, 1])[:, None]
    wanted = layer.proj(plain_attention(layer.q(x), *layer.kv(memory).chunk(2, dim=2), 2, mask[:, None]))
    torch.testing.assert_close(layer(x, memory, mask[:, None, None]), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pieces", [[1] * T, [T], [2, 1, 3], [1, 5], [3, 3]], ids=str)
def test_tokens_given_in_pieces_with_a_cache_see_what_they_see_at_once(pieces):
    layer, x, cache = self_attention(), inputs(B, T, D), KeyValueCache()
    found = torch.cat([layer(piece, cache=cache) for piece in x.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-6)


def test_cached_cross_attention_projects_the_memory_once():
    layer, x, memory, cache = cross_attention(), inputs(B, T, D), inputs(B, S, D, seed=2), KeyValueCache()
    calls = []
    layer.kv.register_forward_hook(lambda *args: calls.append(1))
    found = torch.cat([layer(token, memory, cache=cache) for token in x.split(1, dim=1)], dim=1)
    assert len(calls) == 1
    torch.testing.assert_close(found, layer(x, memory), rtol=1e-5, atol=1e-6)


def test_a_cache_keeps_the_selected_rows_of_every_module_in_their_new_order():
    one, two, memory = self_attention(), cross_attention(), inputs(B, S, D, seed=2)
    x, rows, cache = inputs(B, 2, D), torch.tensor([2, 0, 0, 1]), KeyValueCache()

    def decode(x, memory, cache):
        return two(one(x, cache=cache), memory, cache=cache)

    decode(x[:, :1], memory, cache)
    cache.select(rows)
    wanted_cache = KeyValueCache()
    decode(x[rows, :1], memory[rows], wanted_cache)
    found, wanted = (decode(x[rows, 1:], memory[rows], each) for each in (cache, wanted_cache))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout"])
def test_both_dropouts_act_in_training_only(option):
    layer, x = self_attention(**{option: 0.5}), inputs(B, T, D)
    assert torch.equal(layer(x), self_attention()(x))
    assert not torch.equal(layer.train()(x), layer(x))


def test_a_width_that_the_heads_do_not_divide_is_refused_by_the_config_keys():
    with pytest.raises(ValueError, match=r"width 8 .*heads=3.*model\.net\.heads.*model\.net\.width"):
        SelfAttention(D, 3, causal=True)
