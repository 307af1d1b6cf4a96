"""The README's commands exist: make targets, configs, the code block."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from training_helpers import compose_config

ROOT = Path(__file__).parents[1]
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


def test_the_code_block_trains():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = block.replace('"vit_small_patch16_224"', '"vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5')
    names = {
        "images": torch.randn(2, 3, 32, 32),
        "labels": torch.tensor([0, 4]),
        "loss": torch.nn.functional.cross_entropy,
    }
    exec(code, names)
    model = names["model"]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.training


def test_no_figure_is_left_open():
    assert "@@" not in README
