"""The registry of stacks says what is so: of the classes, of their YAML files, and without torch."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from bdia import reversible
from bdia.reversible import BlockStack
from bdia.reversible.stacks.registry import BY_CLASS, STACKS
from helpers.places import ROOT

CONFIGS = ROOT / "configs" / "stack"


@pytest.mark.parametrize("row", STACKS, ids=lambda row: row.name)
def test_a_row_agrees_with_its_class_and_its_yaml_file(row):
    stack, config = getattr(reversible, row.class_name), OmegaConf.load(CONFIGS / f"{row.name}.yaml")
    assert issubclass(stack, BlockStack) and stack.__module__ == f"bdia.reversible.stacks.{row.module}"
    assert config._target_ == f"bdia.reversible.{row.class_name}"
    assert row.memory_budget == ("memory_budget" in config)
    assert "keep" in config or not row.keeps
    assert row.step_time >= 1


def test_no_two_rows_share_a_name_a_class_a_label_or_a_colour():
    for column in ("name", "class_name", "label", "colour"):
        assert len({getattr(row, column) for row in STACKS}) == len(STACKS), column


def test_every_stack_that_a_config_can_choose_has_a_row():
    for path in CONFIGS.glob("*.yaml"):
        target = OmegaConf.load(path).get("_target_", "bdia.reversible.BdiaStack")  # bdia_pretrained: bdia's, changed
        assert target.rpartition(".")[2] in BY_CLASS, path.name


def test_the_registry_and_the_names_of_the_engine_are_read_without_torch():
    code = "import sys, bdia.reversible.stacks.registry; print(sorted({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_of_the_engine_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'bdia\.reversible' has no attribute 'Nonesuch'"):
        reversible.Nonesuch  # noqa: B018
