"""Tiny models and data for the tests of trainers, and the blocks of docs/trainers.md to run them with."""

import re

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import bdia
from helpers.places import ROOT

PAGE = ROOT / "docs" / "trainers.md"
WORDS, LENGTH, WIDTH, DEPTH = 48, 7, 16, 4
MODES = ("reversible", "stored")
LAST = 1  # streams that enter a layer and stay after forward: the last layer's, with which backward starts


def headings():
    """The page's headings with a Python block under them."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    return [section.split("\n")[0] for section in sections if "```python" in section]


def block(heading):
    """The Python block under a heading of docs/trainers.md."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return compile(code, f"{PAGE.name}: {heading}", "exec")


def run_block(heading, backward, seed=0, **names):
    """Run a block of the page with `bdia.convert` set to `backward`; return its names, and the report as `report`."""
    reports = []
    convert = bdia.convert
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bdia, "convert", lambda *a, **k: reports.append(convert(*a, **k, backward=backward)) or reports[-1]
        )
        torch.manual_seed(seed)
        exec(block(heading), names)
    (names["report"],) = reports
    return names


def llama(depth=DEPTH, seed=0, **settings):
    """A tiny Llama in training mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=depth, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def gpt2(depth=DEPTH, seed=0):
    """A tiny GPT-2 with dropout, in training mode."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=32, n_embd=WIDTH, n_layer=depth, n_head=2, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).train()


def tokens(samples, seed=0):
    """Random token ids, (samples, LENGTH)."""
    return torch.randint(1, WORDS, (samples, LENGTH), generator=torch.Generator().manual_seed(seed))


def samples(count=8):
    """A data set for causal language modelling."""
    return [{"input_ids": row, "labels": row} for row in tokens(count)]


def batch(seed=0):
    """Arguments of a decoder: two samples."""
    ids = tokens(2, seed)
    return {"input_ids": ids, "labels": ids}


def batches(count=4):
    """`count` batches of two samples, always in the same order."""
    return torch.utils.data.DataLoader(samples(2 * count), batch_size=2)


def weights(model):
    """Name -> a copy of each parameter and buffer."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal_weights(found, wanted):
    """The same names, and every tensor equal bit for bit."""
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def inputs_alive(model, inputs):
    """How many of the streams that enter the model's layers are still in memory between forward and backward."""
    (layers,) = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == DEPTH)
    entered = []

    @torch.compiler.disable  # traced, it would see another storage
    def note(_, args, kwargs):
        entered.append(StorageWeakRef((args[0] if args else kwargs["hidden_states"]).untyped_storage()))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    loss = model.train()(**inputs).loss
    alive = sum(not reference.expired() for reference in entered)
    loss.backward()
    for hook in hooks:
        hook.remove()
    assert len(entered) == DEPTH
    return alive


def assert_trained_alike(found, wanted, start):
    """Reversible and stored end in the same bits, the first frees its streams and the second does not, and both moved.

    Args:
        found, wanted: names after `run_block` with "reversible" and "stored".
        start: weights before training.
    """
    assert all(freed > 0 for freed in found["report"].freed_bytes.values())
    assert not any(wanted["report"].freed_bytes.values())
    assert_equal_weights(weights(found["model"]), weights(wanted["model"]))
    after = weights(found["model"])
    assert any(not torch.equal(after[name], value) for name, value in start.items())
    alive = [inputs_alive(names["model"], batch()) for names in (found, wanted)]
    assert alive[0] <= LAST < alive[1], f"streams alive after forward: reversible {alive[0]}, stored {alive[1]}"


def step(model, seed=0, **inputs):
    """One forward and backward; the gradients."""
    torch.manual_seed(seed)
    model(**batch(), **inputs).loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def equal(found, wanted):
    """Whether all tensors are equal bit for bit, and there are any."""
    return bool(found) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
