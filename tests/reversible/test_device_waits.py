"""How often one step waits for the device, between the first layer's forward and the end of backward: once at most."""

import pytest
import torch
from torch import nn

import bdia
from bdia.reversible import (
    BdiaStack,
    CheckpointStack,
    GridOverflowError,
    ReversibilityError,
    RevVitStack,
    StandardStack,
)
from helpers.pretend_device import pretend_device
from helpers.reversible_helpers import Call, loss_of, make_blocks, make_tokens

STACKS = {
    "standard": (StandardStack, 0),
    "checkpoint": (CheckpointStack, 0),
    "bdia": (BdiaStack, 1),
    "bdia, keep 0": (lambda blocks: BdiaStack(blocks, keep=0), 1),
    "bdia, 3/5, nested and saved": (
        lambda blocks: BdiaStack(blocks, bdia.TwoPoint("3/5"), nested=["mlp"], save=["attention"]), 1
    ),
    "bdia, stored": (lambda blocks: BdiaStack(blocks, backward="stored"), 1),
    "bdia, float": (lambda blocks: BdiaStack(blocks, bits=None), 0),
    "revvit": (RevVitStack, 0),
    "revvit, 9 bits": (lambda blocks: RevVitStack(blocks, 9), 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "run"),
    [
        (["tolist"], lambda x: x.tolist()),
        (["item"], lambda x: x.sum().item()),
        (["__bool__"], lambda x: bool(x.sum() > 0)),
        (["nonzero"], lambda x: x.nonzero()),
        (["index"], lambda x: x[x > 0]),
        (["masked_select"], lambda x: x.masked_select(x > 0)),
        (["cpu"], lambda x: x.cpu()),
        (["tensor"], lambda x: torch.tensor([1.0])),
        (["equal"], lambda x: torch.equal(x, x)),
        ([], lambda x: x[torch.zeros(1, dtype=torch.long)] + 1),
    ],
)
def test_the_list_shows_what_waits(monkeypatch, wanted, run):
    x = torch.ones(3)
    with pretend_device(monkeypatch) as waits:
        run(x)
    assert waits == wanted


@pytest.mark.parametrize("name", STACKS)
def test_a_step_waits_once_at_most(monkeypatch, name):
    build, most = STACKS[name]
    stack, x = build(make_blocks(5, 0.1)), make_tokens()
    loss_of(stack(x)).backward()  # the law's tables go to a device once
    with pretend_device(monkeypatch) as waits:
        out = stack(x)
        in_forward = list(waits)
        out.square().sum().backward()
    assert len(waits) == most, waits
    assert not in_forward or name == "bdia, stored"  # which has nothing to wait for in backward


def test_two_stacks_in_one_backward_share_the_wait(monkeypatch):
    first, second, x = BdiaStack(make_blocks(3)), BdiaStack(make_blocks(4)), make_tokens()
    loss_of(second(first(x))).backward()
    with pretend_device(monkeypatch) as waits:
        second(first(x).tanh()).square().sum().backward()
    assert waits == ["tolist"]


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), lambda: torch.randn(2, 5, 16)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config), lambda: torch.randint(1, 32, (2, 8))


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=32, d_model=32, d_kv=16, d_ff=64, num_layers=3, num_heads=2, decoder_start_token_id=0,
        use_cache=False,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    return model, lambda: {"input_ids": torch.randint(1, 32, (2, 8)), "labels": torch.randint(1, 32, (2, 6))}


def step(model, batch):
    out = model(**batch) if isinstance(batch, dict) else model(batch)
    getattr(out, "logits", out).float().square().sum().backward()


@pytest.mark.parametrize(
    "build", [encoder, pytest.param(llama, marks=pytest.mark.slow), pytest.param(t5, marks=pytest.mark.slow)]
)
def test_a_converted_model_waits_at_most_once_more_than_the_ordinary_one(monkeypatch, build):
    torch.manual_seed(0)
    (model, batch), found = build(), []
    model.train()
    for _ in range(2):
        inputs = batch()
        step(model, inputs)
        with pretend_device(monkeypatch) as waits:
            step(model, inputs)
        found.append(list(waits))
        bdia.convert(model, gamma="1/2") if len(found) == 1 else None
    ordinary, converted = found
    assert len(converted) == len(ordinary) + 1 and converted.count("tolist") == ordinary.count("tolist") + 1


def test_what_was_found_is_raised_though_it_was_read_late(monkeypatch):
    with pretend_device(monkeypatch):
        out = BdiaStack(make_blocks(3), bits=14)(make_tokens().detach() * 1e4)
        with pytest.raises(GridOverflowError, match="block 0"):
            out.sum().backward()


def test_of_two_stacks_the_second_s_fault_is_found_too(monkeypatch):
    def changes(block, x):
        block.runs = getattr(block, "runs", 0) + 1
        return x + torch.sin(x * block.weight) * (1 if block.runs < 2 else 2)

    first, second = BdiaStack(make_blocks(3)), BdiaStack([*make_blocks(1), Call(changes), *make_blocks(1)], keep=0)
    with pretend_device(monkeypatch):
        out = second(first(make_tokens()))
        with pytest.raises(ReversibilityError, match="block 1"):
            out.sum().backward()
