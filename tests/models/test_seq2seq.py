"""Seq2SeqTransformer on every stack. B batch, S source tokens, T target tokens, V vocabulary."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bdia.models import Seq2SeqTransformer
from bdia.models.attention import KeyValueCache
from bdia.models.seq2seq import sinusoids
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack
from helpers.text_models import assert_equal_gradients, gradients, padded, small_seq2seq, tokens

SOURCE_LENGTHS, TARGET_LENGTHS = [6, 3, 1], [4, 7, 2]


def bdia(**options):
    return lambda blocks: BdiaStack(blocks, **options)


def batch():
    """Source (3, 6), inputs and labels (3, 6), both padded."""
    target = padded(tokens(3, 7, seed=2), TARGET_LENGTHS)
    return padded(tokens(3, 6), SOURCE_LENGTHS), target[:, :-1], target[:, 1:]


def depths(encoder, decoder):
    return {"encoder_depth": encoder, "decoder_depth": decoder, "dropout": 0.1, "attention_dropout": 0.1}


@pytest.mark.parametrize("depth", [(1, 1), (1, 2), (2, 3), (3, 2), (4, 4)], ids=str)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("embeddings", ["shared", "separate"])
def test_reversible_gradients_equal_stored_gradients_bit_for_bit(depth, keep, embeddings):
    options = depths(*depth) | {"embeddings": embeddings, "loss_chunk": 5}
    wanted = gradients(small_seq2seq(bdia(backward="stored"), **options), *batch(), label_smoothing=0.1)
    found = gradients(small_seq2seq(bdia(keep=keep), **options), *batch(), label_smoothing=0.1)
    assert_equal_gradients(found, wanted)
    assert sum(name.startswith("encoder.") for name in found) == depth[0] * 12


@pytest.mark.parametrize("keep", [0, 1])
def test_checkpointed_gradients_equal_standard_gradients_bit_for_bit(keep):
    stack = lambda blocks: CheckpointStack(blocks, keep)  # noqa: E731
    wanted = gradients(small_seq2seq(**depths(2, 3)), *batch())
    assert_equal_gradients(gradients(small_seq2seq(stack, **depths(2, 3)), *batch()), wanted)


def test_every_parameter_gets_a_gradient_on_a_coupling_stack():
    found = gradients(small_seq2seq(RevVitStack, **depths(2, 3)), *batch())
    assert_equal_gradients(found, found)


def test_bdia_at_inference_is_the_standard_transformer():
    source, inputs, _ = batch()
    standard, reversible = small_seq2seq().eval(), small_seq2seq(bdia(quantize_eval=False)).eval()
    assert torch.equal(reversible(source, inputs), standard(source, inputs))


# --- what does not influence what ---


@pytest.mark.parametrize("stack", [StandardStack, BdiaStack, RevVitStack])
def test_what_stands_at_padded_source_positions_changes_nothing(stack):
    net, (source, inputs, _) = small_seq2seq(stack, embeddings="separate").eval(), batch()
    before = net(source, inputs)
    with torch.no_grad():
        net.source_tokens.weight[0] += 3.0
    assert torch.equal(net(source, inputs), before)


@pytest.mark.parametrize("stack", [StandardStack, RevVitStack, bdia(quantize_eval=False)])
def test_more_padding_changes_nothing(stack):
    net, (source, inputs, _) = small_seq2seq(stack).eval(), batch()
    found = net(F.pad(source, (0, 5)), F.pad(inputs, (0, 4)))[:, : inputs.shape[1]]
    torch.testing.assert_close(found, net(source, inputs), rtol=0, atol=1e-5)


def test_every_source_token_counts():
    net, (source, inputs, _) = small_seq2seq().eval(), batch()
    before = net(source, inputs)
    for place in range(source.shape[1]):
        changed = source.clone()
        changed[0, place] = 3 + (changed[0, place] - 2) % 6
        after = net(changed, inputs)
        assert not torch.allclose(after[0], before[0], atol=1e-4)
        assert torch.equal(after[1:], before[1:])


@pytest.mark.parametrize("stack", [StandardStack, BdiaStack, RevVitStack])
def test_later_target_tokens_do_not_influence_earlier_logits(stack):
    net, source, inputs = small_seq2seq(stack).eval(), tokens(3, 6), tokens(3, 7, seed=2)
    changed = inputs.clone()
    changed[:, 4:] = 3 + (changed[:, 4:] - 2) % 6
    before, after = net(source, inputs), net(source, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


@pytest.mark.parametrize("stack", [StandardStack, RevVitStack, bdia(quantize_eval=False)])
@pytest.mark.parametrize("pieces", [[1] * 7, [3, 4], [2, 1, 4]], ids=str)
@torch.no_grad()
def test_targets_given_in_pieces_with_a_cache_have_the_logits_of_the_whole(stack, pieces):
    net, source, inputs = small_seq2seq(stack).eval(), padded(tokens(3, 6), SOURCE_LENGTHS), tokens(3, 7, seed=2)
    memory, mask = net.encode(source)
    cache = KeyValueCache()
    hidden = [net.decode(piece, memory, mask, cache) for piece in inputs.split(pieces, dim=1)]
    assert cache.length == 7
    torch.testing.assert_close(net.logits(torch.cat(hidden, dim=1)), net(source, inputs), rtol=1e-5, atol=1e-5)


# --- loss, size, options ---


@pytest.mark.parametrize("loss_chunk", [None, 5])
def test_nll_is_the_summed_cross_entropy_of_the_labels_that_are_no_padding(loss_chunk):
    net, (source, inputs, labels) = small_seq2seq(loss_chunk=loss_chunk).eval(), batch()
    loss, count = net.nll(source, inputs, labels, label_smoothing=0.1)
    kept = labels != 0
    wanted = F.cross_entropy(net(source, inputs)[kept], labels[kept], reduction="sum", label_smoothing=0.1)
    assert count == kept.sum() == sum(TARGET_LENGTHS) - 3
    torch.testing.assert_close(loss, wanted)


def test_the_default_size_has_the_parameters_its_parts_add_up_to():
    """Per attention 4 (D^2 + D), per MLP 2 * D * 4 D + 5 D, per norm 2 D; a decoder block has one attention more."""
    width, vocabulary = 512, 1000
    attention, mlp, norm = 4 * (width**2 + width), 8 * width**2 + 5 * width, 2 * width
    wanted = vocabulary * width + 6 * (attention + mlp + 2 * norm) + 6 * (2 * attention + mlp + 3 * norm) + 2 * norm
    with torch.device("meta"):
        found = {
            kind: Seq2SeqTransformer(StandardStack, vocabulary, embeddings=kind) for kind in ("shared", "separate")
        }
    counts = {kind: sum(p.numel() for p in net.parameters()) for kind, net in found.items()}
    assert counts == {"shared": wanted, "separate": wanted + vocabulary * width}


def test_shared_embeddings_are_one_table_and_separate_ones_two():
    shared, separate = small_seq2seq(), small_seq2seq(embeddings="separate")
    assert shared.source_tokens is shared.target_tokens
    assert separate.source_tokens is not separate.target_tokens


def test_positions_are_sines_and_cosines_of_every_rate():
    table = sinusoids(5, 6)
    rates = [10_000 ** (-2 * i / 6) for i in range(3)]
    for place in range(5):
        angles = torch.tensor([place * rate for rate in rates])
        torch.testing.assert_close(table[place], torch.cat([angles.sin(), angles.cos()]), rtol=0, atol=1e-6)
    assert sinusoids(3, 5).shape == (3, 5)


def test_weights_are_drawn_as_documented():
    net = small_seq2seq(width=64, mlp_hidden=128, vocab_size=500)
    assert net.target_tokens.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            rows, columns = module.weight.shape
            assert module.weight.abs().max() <= (6 / (rows + columns)) ** 0.5
            assert not module.bias.any()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_sequence_longer_than_the_positions_is_refused_by_the_config_keys(side):
    long, short = tokens(1, 17), tokens(1, 4)
    with pytest.raises(ValueError, match=r"17 tokens.*at most 16.*model\.net\.positions"):
        small_seq2seq()(*((long, short) if side == "source" else (short, long)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeddings": "foo"}, r"embeddings='foo'.*\"shared\" or \"separate\".*model\.net\.embeddings"),
        ({"heads": 5}, r"width 12 is not a multiple of heads=5.*model\.net\.heads"),
        ({"loss_chunk": 0}, r"chunk=0.*model\.net\.loss_chunk"),
    ],
    ids=str,
)
def test_bad_options_are_refused_by_the_config_key(options, message):
    with pytest.raises(ValueError, match=message):
        small_seq2seq(**options)
