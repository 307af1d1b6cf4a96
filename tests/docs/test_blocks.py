"""The Python blocks of README.md and docs/own-model.md run, and the weights they save load without bdia.

`tests/reversible/test_trainers.py` runs those of docs/trainers.md.
"""

import re
import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

from helpers.places import ROOT

WITHOUT_BDIA = "import sys; sys.modules['bdia'] = None; import torch; torch.set_num_threads(1); "


def blocks(page):
    """The Python blocks of a page, and what its blocks `diff` lead to."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"```(python|diff)\n(.*?)```", text, re.DOTALL)
    return [re.sub(r"^[+ ]", "", code, flags=re.MULTILINE) if kind == "diff" else code for kind, code in found]


def block(page, words):
    """The one block of a page that holds these words."""
    (found,) = (code for code in blocks(page) if words in code)
    return found


def load_without_bdia(code):
    """Run code in a process that can't import bdia."""
    subprocess.run([sys.executable, "-c", WITHOUT_BDIA + code], check=True, timeout=300)


def test_the_pages_have_the_blocks_that_are_run_here():
    assert (len(blocks("README.md")), len(blocks("docs/own-model.md"))) == (2, 3)


def test_three_lines_convert_a_model_of_hugging_face():
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(re.findall(r"^\+", diff, re.MULTILINE)) == 3 and not re.search("^-", diff, re.MULTILINE)


def without_comments(code):
    """The code alone."""
    return [line.partition("  #")[0].rstrip() for line in code.splitlines()]


@pytest.mark.parametrize("words", ["timm", "transformers"])
def test_the_page_for_own_models_has_the_code_of_the_readme(words):
    assert without_comments(block("docs/own-model.md", words)) == without_comments(block("README.md", words))


@pytest.mark.slow
def test_the_block_for_timm_trains_and_its_weights_load_into_timm(one_thread, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = '"vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5'
    names = {}
    code = block("README.md", "timm").replace('"vit_small_patch16_224"', settings)
    exec(code.replace("(8, 3, 224, 224)", "(2, 3, 32, 32)").replace("(1000, (8,))", "(5, (2,))"), names)
    model = names["model"]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert "blocks: 3 layers" in (printed := capsys.readouterr().out) and "bytes freed per layer" in printed
    torch.save((names["images"], model.eval()(names["images"])), "expected.pt")
    load_without_bdia(
        f"import timm; model = timm.create_model({settings}).eval(); model.load_state_dict(torch.load('vit.pt')); "
        "images, wanted = torch.load('expected.pt'); assert torch.equal(model(images), wanted)"
    )


def test_the_block_for_transformers_trains_and_its_weights_load_into_transformers(one_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=4, n_head=2, eos_token_id=1)
    ).save_pretrained("gpt2")
    names = {"ids": torch.arange(10).view(2, 5)}
    exec(block("README.md", "transformers"), names)
    assert all(parameter.grad is not None for parameter in names["model"].parameters())
    torch.save((names["ids"], names["model"].eval()(input_ids=names["ids"]).logits), "expected.pt")
    load_without_bdia(
        "from transformers import AutoModelForCausalLM as M; model = M.from_pretrained('my-gpt2').eval(); "
        "ids, wanted = torch.load('expected.pt'); assert torch.equal(model(input_ids=ids).logits, wanted)"
    )


def test_the_block_for_a_model_of_ones_own_runs_on_its_stack():
    layers = [nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True) for _ in range(3)]
    names = {"layers": layers, "x": torch.randn(2, 3, 8, requires_grad=True)}
    exec(block("docs/own-model.md", "BdiaStack"), names)
    names["x"].sum().backward()
    assert names["blocks"].rebuilt == 1 and all(p.grad is not None for p in names["blocks"].parameters())
