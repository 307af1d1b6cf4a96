"""Small text models, batches and gradients that the tests of the text models share."""

import torch

from bdia.models import Gpt2, Seq2SeqTransformer
from bdia.reversible import StandardStack


def small_gpt2(stack=StandardStack, **options):
    torch.manual_seed(0)
    size = {"vocab_size": 11, "width": 12, "depth": 3, "heads": 2, "positions": 16, "dropout": 0.0}
    return Gpt2(stack, **(size | options))


def small_seq2seq(stack=StandardStack, seed=0, **options):
    torch.manual_seed(seed)
    size = {"vocab_size": 9, "width": 12, "heads": 2, "mlp_hidden": 16, "encoder_depth": 2, "decoder_depth": 2}
    return Seq2SeqTransformer(stack, **(size | {"positions": 16, "dropout": 0.0} | options))


def tokens(*shape, vocab_size=9, seed=1):
    """Random tokens, none of them a control token (0, 1, 2)."""
    return torch.randint(3, vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def padded(batch, lengths):
    """The batch with padding, 0, behind these lengths."""
    return batch.where(torch.arange(batch.shape[1]) < torch.tensor(lengths)[:, None], 0)


def gradients(net, *batch, label_smoothing=0.0):
    """Loss and every parameter's gradient, in training mode, from a fixed random state."""
    torch.manual_seed(3)
    net.train().zero_grad()
    loss, count = net.nll(*batch, label_smoothing=label_smoothing)
    (loss / count).backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in net.named_parameters()}


def assert_equal_gradients(found, wanted):
    """Bit for bit, and every parameter has one that is not zero."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
        assert tensor.abs().sum() > 0, name
