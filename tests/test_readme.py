"""The README's commands exist: make targets, configs, the code block."""

import re
import shlex
import subprocess
import sys

import pytest
import torch
import transformers
from hydra.core.override_parser.overrides_parser import OverridesParser

from helpers.places import ROOT
from helpers.training_helpers import compose_config

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python -m bdia\.train[^`\n#|]*", README)))
TARGETS = sorted(set(re.findall(r"`?make ([a-z0-9-]+)", README)))


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5
    assert {"demo", "test", "reproduce-cifar10"} <= set(TARGETS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_train_command_of_the_readme_composes(command):
    words = [word for word in shlex.split(command)[3:] if not word.startswith(("-", "hydra"))]
    firsts = []
    for override in OverridesParser.create().parse_overrides(words):
        value = next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else None
        firsts.append(f"{override.get_key_element()}={value}" if value else override.input_line)
    compose_config(*firsts)


@pytest.mark.parametrize("target", TARGETS)
def test_a_make_target_of_the_readme_is_documented_in_the_makefile(target):
    assert re.search(rf"^{target}:.*## \S", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WITHOUT_BDIA = "import sys; sys.modules['bdia'] = None; import torch; torch.set_num_threads(1); "


def load_without_bdia(code):
    """Run code in a process that can't import bdia."""
    subprocess.run([sys.executable, "-c", WITHOUT_BDIA + code], check=True, timeout=300)


def test_the_block_for_timm_trains_and_its_weights_load_into_timm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = '"vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5'
    names = {
        "torch": torch,
        "images": torch.randn(2, 3, 32, 32),
        "labels": torch.tensor([0, 4]),
        "loss": torch.nn.functional.cross_entropy,
    }
    exec(BLOCKS[0].replace('"vit_small_patch16_224"', settings), names)
    model = names["model"]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert "blocks: 3 layers" in (printed := capsys.readouterr().out) and "bytes freed per layer" in printed
    torch.save((names["images"], model.eval()(names["images"])), "expected.pt")
    load_without_bdia(
        f"import timm; model = timm.create_model({settings}).eval(); model.load_state_dict(torch.load('vit.pt')); "
        "images, wanted = torch.load('expected.pt'); assert torch.equal(model(images), wanted)"
    )


def test_the_block_for_transformers_trains_and_its_weights_load_into_transformers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=4, n_head=2, eos_token_id=1)
    ).save_pretrained("gpt2")
    names = {"ids": torch.arange(10).view(2, 5)}
    exec(BLOCKS[1], names)
    assert all(parameter.grad is not None for parameter in names["model"].parameters())
    torch.save((names["ids"], names["model"].eval()(input_ids=names["ids"]).logits), "expected.pt")
    load_without_bdia(
        "from transformers import AutoModelForCausalLM as M; model = M.from_pretrained('my-gpt2').eval(); "
        "ids, wanted = torch.load('expected.pt'); assert torch.equal(model(input_ids=ids).logits, wanted)"
    )


def test_no_figure_is_left_open():
    assert "@@" not in README
