"""LossHead against PyTorch's cross-entropy. N tokens, D width, V vocabulary."""

import pytest
import torch
import torch.nn.functional as F

from bdia.models.loss_head import LossHead
from bdia.profiling.storage_meter import StorageMeter

N, D, V = 23, 6, 11


def case(n=N, vocabulary=V):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, D, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, D, generator=generator).requires_grad_()
    target = torch.randint(1, vocabulary, (n,), generator=generator)
    target[::4] = 0
    return hidden, weight, target


def loss_and_gradients(head, hidden, weight, target, smoothing=0.0):
    loss = head(hidden, weight, target, smoothing)
    return loss.detach(), *torch.autograd.grad(loss, [hidden, weight])


def plain(ignore_index):
    ignored = -100 if ignore_index is None else ignore_index
    return lambda hidden, weight, target, smoothing: F.cross_entropy(
        hidden @ weight.T, target, reduction="sum", ignore_index=ignored, label_smoothing=smoothing
    )


@pytest.mark.parametrize("chunk", [None, 1, 5, N, 1000])  # 5 leaves a shorter last chunk
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore_index", [None, 0])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(chunk, smoothing, ignore_index):
    found = loss_and_gradients(LossHead(chunk, ignore_index), *case(), smoothing)
    wanted = loss_and_gradients(plain(ignore_index), *case(), smoothing)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 5])
def test_padding_adds_nothing_to_the_loss_or_to_any_gradient(chunk):
    hidden, weight, target = case()
    loss, grad_hidden, grad_weight = loss_and_gradients(LossHead(chunk, 0), hidden, weight, target, 0.1)
    counts = target != 0
    kept = hidden.detach()[counts].requires_grad_()
    wanted = loss_and_gradients(LossHead(chunk, 0), kept, weight, target[counts], 0.1)
    torch.testing.assert_close((loss, grad_hidden[counts], grad_weight), wanted, rtol=1e-5, atol=1e-5)
    assert not grad_hidden[~counts].any()


def test_without_gradients_the_chunks_give_the_same_loss():
    wanted = LossHead(5)(*case())
    with torch.no_grad():
        assert torch.equal(LossHead(5)(*case()), wanted)


def test_peak_memory_is_that_of_one_chunk_not_of_all_logits():
    n, vocabulary, chunk = 256, 512, 16
    peaks = {}
    for size in (None, chunk):
        hidden, weight, target = case(n, vocabulary)
        with StorageMeter([], []) as meter:
            loss_and_gradients(LossHead(size), hidden, weight, target)
        peaks[size] = meter.peak
    logits, gradients = 4 * n * vocabulary, 4 * D * (n + 2 * vocabulary)
    assert peaks[None] >= 2 * logits
    assert peaks[chunk] <= 4 * logits * chunk / n + gradients + 4 * D * (n + vocabulary)


def test_a_chunk_below_one_token_is_refused_by_the_config_key():
    with pytest.raises(ValueError, match=r"chunk=0.*model\.net\.loss_chunk"):
        LossHead(0)
