"""Beam search against a search of every sequence. B sentences, S source tokens, V vocabulary: PAD, BOS, EOS, words."""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from bdia.models.attention import KeyValueCache
from bdia.models.decoding import beam_search, best_first
from bdia.reversible import BdiaStack, RevVitStack, StandardStack
from helpers.text_models import padded, small_seq2seq, tokens

PAD, BOS, EOS = 0, 1, 2
STACKS = {
    "standard": StandardStack,
    "bdia": lambda blocks: BdiaStack(blocks, quantize_eval=False),
    "bdia on the grid": BdiaStack,
    "revvit": RevVitStack,
}
LENGTHS = [6, 3, 1, 4]


def sharp_net(stack="standard", seed=0, **options):
    """A random net whose predictions are far from uniform and far from certain."""
    net = small_seq2seq(STACKS[stack], seed=seed, **options).eval()
    with torch.no_grad():
        net.decoder_join.norm.weight.mul_(2.0)
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(3.0)
    return net


@functools.cache
@torch.enable_grad()
def trained_net(stack="standard"):
    """A net that has begun to learn to repeat every other word of the source; nets of one stream share its weights."""
    streams = 2 if stack == "revvit" else 1
    if streams == 1 and stack != "standard":
        net = small_seq2seq(STACKS[stack])
        net.load_state_dict(trained_net("standard").state_dict())
        return net.eval()
    net = small_seq2seq(STACKS[stack]).train()
    optimizer, generator = torch.optim.Adam(net.parameters(), 2e-2), torch.Generator().manual_seed(0)
    for _ in range(80):
        lengths = torch.randint(1, 7, (16, 1), generator=generator)
        words, places = torch.randint(3, 9, (16, 6), generator=generator), torch.arange(7)
        target = torch.where(places < (lengths + 1) // 2, F.pad(words[:, ::2], (0, 4)), PAD)
        target = torch.where(places == (lengths + 1) // 2, EOS, target)
        loss, count = net.nll(words.where(places[:6] < lengths, PAD), F.pad(target[:, :-1], (1, 0), value=BOS), target)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.eval()


def sources(vocab_size=9, seed=1):
    return padded(tokens(4, 6, vocab_size=vocab_size, seed=seed), LENGTHS)


def search(net, source, **options):
    return beam_search(net, source, BOS, EOS, **options)


@torch.no_grad()
def log_p(net, source, sequences):
    """Sum of log p of every sequence and EOS, for one source, by the whole net without a cache."""
    labels = pad_sequence([torch.tensor([*s, EOS]) for s in sequences], batch_first=True)
    inputs = F.pad(labels[:, :-1], (1, 0), value=BOS)
    every = net(source.expand(len(sequences), -1), inputs).log_softmax(dim=2)
    return (every.gather(2, labels[..., None])[..., 0] * (labels != PAD)).sum(dim=1).tolist()


def scores(net, source, sequences, length_penalty):
    """What beam search compares."""
    sums = log_p(net, source, sequences)
    return [total / (len(s) + 1) ** length_penalty for total, s in zip(sums, sequences, strict=True)]


def best_of_all(net, source, words, max_length, length_penalty):
    """The argmax over every sequence of at most max_length words."""
    every = [list(s) for n in range(max_length + 1) for s in itertools.product(words, repeat=n)]
    return max(zip(scores(net, source, every, length_penalty), every, strict=True))[1]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_as_wide_as_the_space_finds_the_best_of_all_sequences(stack, length_penalty, seed):
    net, source = sharp_net(stack, seed, vocab_size=5), sources(vocab_size=5, seed=seed)
    found = search(net, source, max_length=4, beam=32, length_penalty=length_penalty)
    assert found == [best_of_all(net, row[None], [3, 4], 4, length_penalty) for row in source]


def test_the_cases_above_have_translations_of_every_length():
    found = [
        search(sharp_net(seed=seed, vocab_size=5), sources(vocab_size=5, seed=seed), max_length=4, beam=32)
        for seed in range(3)
    ]
    assert {len(sentence) for batch in found for sentence in batch} >= {0, 1, 2, 4}


@pytest.mark.parametrize("net", ["trained", 0, 1, 2])
@pytest.mark.parametrize("stack", STACKS)
@torch.no_grad()
def test_a_beam_of_one_is_the_argmax_loop_without_a_cache(stack, net):
    net, source = trained_net(stack) if net == "trained" else sharp_net(stack, net), sources()
    for row, found in zip(source, search(net, source, beam=1, max_length=9), strict=True):
        wanted = []
        while len(wanted) < 9:
            logits = net(row[None], torch.tensor([[BOS, *wanted]]))[0, -1]
            logits[[PAD, BOS]] = -torch.inf
            if logits.argmax() == EOS:
                break
            wanted.append(logits.argmax().item())
        assert found == wanted


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("beam", [1, 2, 4])
def test_a_batch_of_different_lengths_is_translated_like_each_sentence_alone(stack, beam):
    net, source = trained_net(stack), sources()
    alone = [search(net, row[None, :n], beam=beam)[0] for row, n in zip(source, LENGTHS, strict=True)]
    assert search(net, source, beam=beam) == alone
    assert len({len(sentence) for sentence in alone}) > 1


@pytest.mark.parametrize("stack", STACKS)
@torch.no_grad()
def test_every_step_of_the_search_has_the_logits_of_the_net_without_a_cache(stack, monkeypatch):
    net, source, seen = trained_net(stack), sources(), []
    memory, mask = net.encode(source)
    decode, select = net.decode, KeyValueCache.select
    prefixes, rows_of = torch.empty(4, 0, dtype=torch.int64), torch.arange(4)

    def watched_decode(target, memory_, mask_, cache):
        nonlocal prefixes
        prefixes = torch.cat([prefixes, target], dim=1)
        hidden = decode(target, memory_, mask_, cache)
        seen.append((hidden[:, -1], decode(prefixes, memory[rows_of], mask[rows_of])[:, -1]))
        return hidden

    def watched_select(self, rows):
        nonlocal prefixes, rows_of
        prefixes, rows_of = prefixes[rows], rows_of[rows]
        select(self, rows)

    monkeypatch.setattr(net, "decode", watched_decode)
    monkeypatch.setattr(KeyValueCache, "select", watched_select)
    search(net, source, beam=3)
    assert len(seen) > 3
    # A rounding difference moves a value that lies between two grid points by one step of 2^-9.
    tolerance = 0.02 if stack == "bdia on the grid" else 1e-5
    for cached, whole in seen:
        torch.testing.assert_close(cached, whole, rtol=0, atol=tolerance)


def test_a_wider_beam_scores_better_on_the_whole():
    def total(beam):
        found = []
        for seed in range(6):
            net, source = sharp_net(seed=seed), sources(seed=seed)
            for row, sentence in zip(source, search(net, source, beam=beam, max_length=8), strict=True):
                found += scores(net, row[None], [sentence], 1.0)
        return sum(found)

    assert total(1) < total(16)


def test_a_higher_length_penalty_gives_longer_translations():
    net, source = sharp_net(seed=2), sources(seed=2)
    lengths = [sum(map(len, search(net, source, length_penalty=p, max_length=8))) for p in (-1.0, 1.0, 3.0)]
    assert lengths[0] < lengths[1] < lengths[2]


def test_padding_and_bos_are_never_produced():
    net = sharp_net()
    with torch.no_grad():
        net.target_tokens.weight[PAD] = net.target_tokens.weight[BOS] = net.target_tokens.weight[EOS] * 5
    for beam in (1, 4):
        assert {PAD, BOS, EOS}.isdisjoint(itertools.chain(*search(net, sources(), beam=beam)))


def never_ending_net(**options):
    """A net that gives EOS a probability near 0."""
    net = sharp_net(**options)
    net.logits = lambda hidden: F.pad(hidden.new_zeros(len(hidden), 6), (3, 0), value=-50.0)
    return net


def test_a_translation_ends_at_twice_its_own_source_plus_twenty_tokens_or_at_the_last_position():
    assert [len(found) for found in search(never_ending_net(positions=64), sources())] == [32, 26, 22, 28]
    assert [len(found) for found in search(never_ending_net(positions=28), sources())] == [27, 26, 22, 27]
    assert [len(found) for found in search(never_ending_net(), sources(), max_length=5)] == [5, 5, 5, 5]


def test_finished_sentences_leave_the_batch(monkeypatch):
    net, rows = never_ending_net(positions=64), []
    decode = net.decode
    monkeypatch.setattr(net, "decode", lambda target, *args: rows.append(len(target)) or decode(target, *args))
    search(net, sources(), beam=2)
    assert rows == [4] + [8] * 22 + [6] * 4 + [4] * 2 + [2] * 4  # after 22, 26, 28 and 32 tokens EOS is forced


def scripted_net(monkeypatch, *steps):
    """A net with these probabilities of the words after the control tokens PAD, BOS, EOS at each step, whatever the
    sentence; the last step repeats. `net.decoded` counts the steps."""
    net = sharp_net(vocab_size=5)
    net.decoded = 0

    def decode(target, memory, mask, cache):
        net.decoded += 1
        table = torch.tensor([1e-30, 1e-30, *steps[min(net.decoded, len(steps)) - 1]]).log()
        cache.entries[net] = (table.expand(len(target), -1),) * 2
        return table.expand(len(target), 1, -1)

    monkeypatch.setattr(net, "decode", decode)
    monkeypatch.setattr(net, "logits", lambda hidden: hidden)
    return net


ENDS_OR_GOES_ON = [(0.6, 0.4, 1e-9), (0.002, 0.99, 0.008)]  # EOS is likeliest, but the mean per token rises after it


@pytest.mark.parametrize(("beam", "wanted"), [(1, []), (2, [3] * 15)])
def test_a_sentence_is_done_when_as_many_hypotheses_as_the_beam_are_finished(monkeypatch, beam, wanted):
    net = scripted_net(monkeypatch, *ENDS_OR_GOES_ON)
    assert search(net, sources(vocab_size=5)[:1], beam=beam) == [wanted]
    assert net.decoded == len(wanted) + 1


def test_a_sentence_is_done_when_no_unfinished_hypothesis_can_win(monkeypatch):
    for penalty, steps in [(0.0, 1), (0.1, 1), (1.0, 16)]:
        net = scripted_net(monkeypatch, *ENDS_OR_GOES_ON)
        search(net, sources(vocab_size=5)[:1], beam=2, length_penalty=penalty)
        assert net.decoded == steps


def test_of_equal_scores_the_lowest_token_ids_win():
    net = never_ending_net()  # all words have the same probability
    for beam in (1, 2, 4):
        assert search(net, sources(), beam=beam, max_length=4) == [[3, 3, 3, 3]] * 4


def test_best_first_is_a_stable_sort_cut_short():
    scores = torch.randint(4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    scores[scores == 0] = -torch.inf
    for count in (1, 7, 30, 99):
        values, places = scores.sort(dim=1, descending=True, stable=True)
        found = best_first(scores, count)
        assert torch.equal(found[0], values[:, :count]) and torch.equal(found[1], places[:, :count])


def test_a_vocabulary_smaller_than_the_beam_is_enough():
    net = sharp_net(vocab_size=4)
    assert all(set(sentence) <= {3} for sentence in search(net, padded(tokens(2, 3, vocab_size=4), [3, 1]), beam=8))


def test_an_empty_batch_has_no_translations():
    assert search(sharp_net(), torch.empty(0, 3, dtype=torch.int64)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, r"beam=0: wanted at least 1.*set beam"),
        ({"max_length": 16}, r"max_length=16: wanted 1 to 15.*model\.net\.positions"),
        ({"max_length": 0}, r"max_length=0: wanted 1 to 15"),
        ({"length_penalty": float("nan")}, r"length_penalty=nan: wanted a finite number"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        search(sharp_net(), sources(), **options)


def test_a_net_in_training_mode_is_refused_and_no_mode_is_changed():
    net = sharp_net()
    search(net, sources(), max_length=3)
    assert not net.training
    with pytest.raises(ValueError, match=r"training mode.*net\.eval\(\)"):
        search(net.train(), sources())
    assert net.training


def test_a_net_of_nan_weights_is_an_error_and_no_translation():
    net = sharp_net()
    with torch.no_grad():
        net.decoder_join.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"not numbers"):
        search(net, sources())
