"""Gpt2 on every stack. B batch, T tokens, V vocabulary."""

import pytest
import torch
import torch.nn.functional as F

from bdia.models import Gpt2
from bdia.models.attention import KeyValueCache
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack
from helpers.text_models import assert_equal_gradients, gradients, small_gpt2, tokens

V = 11


def bdia(**options):
    return lambda blocks: BdiaStack(blocks, **options)


def batch():
    stream = tokens(2, 8, vocab_size=V)
    return stream[:, :-1], stream[:, 1:]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("loss_chunk", [None, 5])
def test_reversible_gradients_equal_stored_gradients_bit_for_bit(depth, keep, loss_chunk):
    options = {"depth": depth, "dropout": 0.1, "attention_dropout": 0.1, "loss_chunk": loss_chunk}
    wanted = gradients(small_gpt2(bdia(backward="stored"), **options), *batch())
    assert_equal_gradients(gradients(small_gpt2(bdia(keep=keep), **options), *batch()), wanted)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("keep", [0, 1])
def test_checkpointed_gradients_equal_standard_gradients_bit_for_bit(depth, keep):
    wanted = gradients(small_gpt2(depth=depth, dropout=0.1), *batch())
    stack = lambda blocks: CheckpointStack(blocks, keep)  # noqa: E731
    assert_equal_gradients(gradients(small_gpt2(stack, depth=depth, dropout=0.1), *batch()), wanted)


def test_bdia_at_inference_is_the_standard_transformer():
    standard, reversible = small_gpt2().eval(), small_gpt2(bdia(quantize_eval=False)).eval()
    assert torch.equal(reversible(batch()[0]), standard(batch()[0]))


def test_rounding_at_inference_moves_the_logits_by_about_the_grids_step():
    standard, rounded = small_gpt2().eval(), small_gpt2(bdia(bits=12)).eval()
    torch.testing.assert_close(rounded(batch()[0]), standard(batch()[0]), rtol=0, atol=2**-9)


@pytest.mark.parametrize("stack", [StandardStack, BdiaStack, RevVitStack])
def test_later_tokens_do_not_influence_earlier_logits(stack):
    net, inputs = small_gpt2(stack).eval(), tokens(2, 8, vocab_size=V)
    changed = inputs.clone()
    changed[:, 5:] = (changed[:, 5:] + 3) % V
    before, after = net(inputs), net(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.mark.parametrize("stack", [StandardStack, RevVitStack, bdia(quantize_eval=False)])
@pytest.mark.parametrize("pieces", [[1] * 8, [3, 5], [4, 1, 3]], ids=str)
@torch.no_grad()
def test_tokens_given_in_pieces_with_a_cache_have_the_logits_of_the_whole(stack, pieces):
    net, inputs, cache = small_gpt2(stack).eval(), tokens(2, 8, vocab_size=V), KeyValueCache()
    found = torch.cat([net(piece, cache) for piece in inputs.split(pieces, dim=1)], dim=1)
    assert cache.length == 8
    torch.testing.assert_close(found, net(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stack", [StandardStack, BdiaStack, RevVitStack])
def test_nll_is_the_summed_cross_entropy_of_the_logits(stack):
    net, (inputs, labels) = small_gpt2(stack).eval(), batch()
    loss, count = net.nll(inputs, labels)
    wanted = F.cross_entropy(net(inputs).flatten(0, 1), labels.flatten(), reduction="sum")
    assert count == labels.numel()
    torch.testing.assert_close(loss, wanted)


def test_a_fresh_net_knows_nothing_and_its_branches_shrink_with_depth():
    net = small_gpt2(vocab_size=300, width=64, depth=8)
    loss, count = net.nll(*(tokens(4, 16, vocab_size=300, seed=seed) for seed in (1, 2)))
    assert loss.item() / count == pytest.approx(torch.tensor(300.0).log().item(), abs=0.1)
    stds = {name: p.std().item() for name, p in net.named_parameters() if p.ndim == 2}
    for name, std in stds.items():
        last_of_branch = name.endswith(("attn.proj.weight", "mlp.fc2.weight"))
        assert std == pytest.approx(0.02 / 4 if last_of_branch else 0.02, rel=0.1), name
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_gpt2_small_has_its_published_number_of_parameters():
    with torch.device("meta"):
        net = Gpt2(StandardStack, vocab_size=50_257)
    assert sum(p.numel() for p in net.parameters()) == 124_439_808


def test_a_sequence_longer_than_the_positions_is_refused_by_the_config_key():
    net, cache = small_gpt2().eval(), KeyValueCache()
    with pytest.raises(ValueError, match=r"17 tokens.*at most 16.*model\.net\.positions"):
        net(tokens(1, 17))
    net(tokens(1, 16), cache)
    with pytest.raises(ValueError, match=r"17 tokens.*at most 16"):
        net(tokens(1, 1), cache)
