"""Text from Gpt2. B batch, T tokens, V vocabulary."""

import numpy as np
import pytest
import torch

from bdia.models.sampling import generate, likeliest
from bdia.reversible import BdiaStack, RevVitStack, StandardStack
from helpers.text_models import small_gpt2, tokens

V = 11


def sharp_net(stack=StandardStack, **options):
    """A random net whose predictions are far from uniform."""
    net = small_gpt2(stack, **options).eval()
    with torch.no_grad():
        net.tokens.weight.mul_(40.0)
        net.positions.weight.mul_(40.0)
    return net


def prompt(batch=2, length=3):
    return tokens(batch, length, vocab_size=V)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stack", [StandardStack, lambda b: BdiaStack(b, quantize_eval=False), RevVitStack])
@torch.no_grad()
def test_temperature_zero_is_the_argmax_loop_without_a_cache(stack):
    net, wanted = sharp_net(stack), prompt()
    for _ in range(10):
        wanted = torch.cat([wanted, net(wanted)[:, -1:].argmax(dim=2)], dim=1)
    assert torch.equal(generate(net, prompt(), 10, temperature=0), wanted)
    assert len(wanted.unique()) > 4


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-30}], ids=str)
def test_keeping_one_token_is_greedy(options):
    net = sharp_net()
    found = generate(net, prompt(), 10, generator=seeded(), **options)
    assert torch.equal(found, generate(net, prompt(), 10, temperature=0))


@pytest.mark.parametrize("top_k", [None, 1, 4, V, 99])
@pytest.mark.parametrize("top_p", [None, 0.2, 0.75, 1.0])
def test_the_kept_probabilities_are_those_of_a_direct_computation(top_k, top_p):
    logits = torch.randn(6, V, generator=seeded()) * 2
    logits[0] = 0.0  # all equal
    probabilities, ids = likeliest(logits, top_k, top_p)
    found = torch.zeros(6, V).scatter(1, ids, probabilities)
    for row, mine in zip(logits.double().numpy(), found.double().numpy(), strict=True):
        order = np.argsort(-row, kind="stable")[:top_k]
        wanted = np.zeros(V)
        wanted[order] = np.exp(row[order]) / np.exp(row[order]).sum()
        if top_p is not None:
            needed = 1 + int(np.searchsorted(np.cumsum(wanted[order]), top_p - 1e-6))  # fewest that reach top_p
            wanted[order[needed:]] = 0.0
            wanted /= wanted.sum()
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-6)
        assert ((mine > 0) == (wanted > 0)).all()


def test_samples_follow_the_nets_distribution_at_a_temperature():
    net, count = sharp_net(), 20_000
    first = prompt(1, 3)
    found = generate(net, first.expand(count, -1), 1, temperature=2.0, generator=seeded())[:, -1]
    with torch.no_grad():
        wanted = (net(first)[0, -1] / 2.0).softmax(dim=0)
    torch.testing.assert_close(found.bincount(minlength=V) / count, wanted, rtol=0, atol=0.015)


def test_a_seed_repeats_its_text_and_another_gives_another():
    net = sharp_net()
    one, again, other = (generate(net, prompt(), 12, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(one[:, :3], prompt())
    torch.manual_seed(5)
    one = generate(net, prompt(), 12)
    torch.manual_seed(5)
    assert torch.equal(one, generate(net, prompt(), 12))


def test_a_row_ends_at_the_stop_token_and_is_filled_with_it():
    net, options = sharp_net(), {"new_tokens": 12, "temperature": 5.0}
    free = generate(net, prompt(4), generator=seeded(), **options)
    stop = free[0, 5].item()
    found = generate(net, prompt(4), generator=seeded(), stop_id=stop, **options)
    ends = []
    for mine, wanted in zip(found, free, strict=True):
        places = (wanted[3:] == stop).nonzero().flatten()
        ends.append(4 + places[0].item() if len(places) else len(wanted))
        assert torch.equal(mine[: ends[-1]], wanted[: ends[-1]]) and (mine[ends[-1] :] == stop).all()
    assert min(ends) <= 6 < max(ends) == found.shape[1]


def test_no_token_is_added_once_all_rows_have_ended():
    net = sharp_net()
    stop = generate(net, prompt(1), 5, temperature=0)[0, 3].item()
    assert generate(net, prompt(1), 5, temperature=0, stop_id=stop).tolist() == [[*prompt(1)[0].tolist(), stop]]


def test_a_stop_token_in_the_prompt_ends_nothing():
    first = prompt(1, 3)
    found = generate(sharp_net(), first, 5, temperature=0, stop_id=first[0, 0].item())
    assert found.shape[1] > 3


def test_the_last_position_can_be_used_and_not_one_more():
    net, calls = sharp_net(), []
    assert generate(net, prompt(), 14, temperature=0).shape == (2, 17)  # the 17th token is not read
    net.register_forward_pre_hook(lambda *args: calls.append(1))
    net.blocks.register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(ValueError, match=r"3 tokens and 15 new ones need 17 positions, the net has 16.*at most 14"):
        generate(net, prompt(), 15)
    assert not calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 0}, r"new_tokens=0: wanted at least 1"),
        ({"temperature": -1.0}, r"temperature=-1\.0: wanted 0 \(greedy\) or a positive number"),
        ({"temperature": float("nan")}, r"temperature=nan"),
        ({"temperature": float("inf")}, r"temperature=inf"),
        ({"top_k": 0}, r"top_k=0: wanted at least 1"),
        ({"top_p": 0.0}, r"top_p=0\.0: wanted above 0 and at most 1"),
        ({"top_p": 1.5}, r"top_p=1\.5: wanted above 0 and at most 1"),
        ({"tokens": torch.empty(1, 0, dtype=torch.int64)}, r"shape \(1, 0\).*give a prompt"),
        ({"tokens": torch.tensor([1, 2])}, r"shape \(2,\): wanted \(B, T\)"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        generate(sharp_net(), **({"tokens": prompt(), "new_tokens": 3} | options))


def test_a_net_in_training_mode_is_refused_and_no_mode_is_changed():
    net = sharp_net()
    generate(net, prompt(), 2)
    assert not net.training
    with pytest.raises(ValueError, match=r"training mode.*net\.eval\(\)"):
        generate(net.train(), prompt(), 2)
