"""A model built on torch's meta device computes the same once its weights are there, on every stack."""

import pickle
import warnings

import pytest
import torch

from bdia.models import Gpt2, Seq2SeqTransformer, VisionTransformer, timm_vit
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack, TwoLevelCheckpointStack

STACKS = {
    "standard": StandardStack,
    "checkpointing": CheckpointStack,
    "two_level": TwoLevelCheckpointStack,
    "bdia": BdiaStack,
    "revvit": RevVitStack,
}
SIZE = {"width": 16, "depth": 3, "heads": 2, "dropout": 0.0}
SENTENCES = {"width": 16, "heads": 2, "mlp_hidden": 16, "encoder_depth": 2, "decoder_depth": 2, "dropout": 0.0}
TIMM = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}


def tokens(rows=2, length=6):
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(1))


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


MODELS = {
    "vit": (
        lambda stack: VisionTransformer(stack, img_size=8, head_dim=8, mlp_hidden=16, **SIZE),
        lambda net: net(images()),
    ),
    "vit_timm_parts": (
        lambda stack: timm_vit("vit_tiny_patch16_224", stack, num_classes=5, **TIMM),
        lambda net: net(images()),
    ),
    "gpt2": (lambda stack: Gpt2(stack, vocab_size=40, positions=8, **SIZE), lambda net: net.hidden(tokens())),
    "seq2seq": (
        lambda stack: Seq2SeqTransformer(stack, vocab_size=40, positions=8, **SENTENCES),
        lambda net: net.decode(tokens(), *net.encode(tokens())),
    ),
}


def built(model, stack, device):
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        kind = STACKS[stack]
        merge = {"merge": "mean"} if stack == "revvit" and model == "vit_timm_parts" else {}
        return MODELS[model][0](lambda blocks: kind(blocks, **merge))


def trained(model, net):
    """Output and gradients of a step, with the same random numbers."""
    torch.manual_seed(3)
    output = MODELS[model][1](net)
    output.square().mean().backward()
    return output.detach(), {name: p.grad for name, p in net.named_parameters()}


def assert_the_same(model, net, wanted):
    found, right = trained(model, net), trained(model, wanted)
    assert torch.equal(found[0], right[0])
    assert found[1].keys() == right[1].keys() and all(torch.equal(found[1][key], right[1][key]) for key in right[1])


each = pytest.mark.parametrize(("model", "stack"), [(model, stack) for model in MODELS for stack in STACKS])


@each
def test_a_model_of_meta_that_is_emptied_and_loaded_trains_as_any(model, stack):
    wanted, net = built(model, stack, "cpu"), built(model, stack, "meta")
    net.to_empty(device="cpu")
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(torch.nan)  # what lies in fresh memory
    net.load_state_dict(wanted.state_dict())
    assert_the_same(model, net, wanted)


@each
def test_a_model_of_meta_whose_weights_are_assigned_trains_as_any(model, stack):
    wanted, net = built(model, stack, "cpu"), built(model, stack, "meta")
    net.load_state_dict({key: value.clone() for key, value in wanted.state_dict().items()}, assign=True)
    assert_the_same(model, net, wanted)


@pytest.mark.parametrize(("model", "stack"), [(m, s) for m in MODELS if m != "vit_timm_parts" for s in STACKS])
def test_a_model_of_meta_that_is_emptied_and_initialised_is_the_one_of_the_seed(model, stack):
    wanted, net = built(model, stack, "cpu"), built(model, stack, "meta")
    net.to_empty(device="cpu")
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(torch.nan)
    torch.manual_seed(0)
    net.init_weights()
    states = wanted.state_dict()
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
    if model == "vit":  # the constructor draws in another order: the same laws, not the same numbers
        assert all(
            abs(value.std() - states[key].std()) < 0.5 for key, value in net.state_dict().items() if value.numel() > 200
        )
        net.load_state_dict(states)
    assert_the_same(model, net, wanted)


def test_the_sinusoids_are_in_no_state_dict_and_a_model_can_be_pickled():
    net = built("seq2seq", "bdia", "cpu")
    assert "positions" not in net.state_dict()
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again.positions, net.positions)
