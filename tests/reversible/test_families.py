"""`bdia.convert` on other people's models: a dozen families here, all of the zoo among the slow tests."""

import pytest

from helpers.check_family import check_family
from helpers.families import families
from helpers.places import ROOT

DOZEN = (
    "gpt2", "llama", "gemma3n", "mixtral", "bert", "t5", "mamba", "convnext", "swin", "timm_xcit", "torchvision_vit",
    "decoder_sequence_first_postnorm",
)  # fmt: skip


def missed(result):
    """What a family misses, in words; empty where every claim holds."""
    if result.error:
        return result.traceback
    names = ("found", "exact", "same_output", "close", "eval_same", "keys_same", "reverted")
    return ", ".join(f"not {name}" for name in names if not getattr(result, name))


@pytest.mark.parametrize("name", DOZEN)
def test_a_converted_family_is_exact_and_otherwise_unchanged(name):
    assert missed(check_family(families()[name])) == ""


@pytest.mark.parametrize("name", ["llama", "torchvision_vit", "bloom"])
def test_a_further_layer_holds_one_bit_per_activation_and_less_than_a_hundred_bytes(name):
    held = check_family(families()[name]).held
    assert held.activations / 8 <= held.bytes < held.activations / 8 + 100


def test_the_table_in_the_docs_has_a_row_or_a_line_for_every_family():
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert [name for name in families() if f"| {name} |" not in text and f"- {name} (" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "torch", "torchvision", "transformers"])
def test_every_family_is_exact_or_refused_by_name(library):
    wrong = {}
    for family in (row for row in families().values() if row.library == library and row.name not in DOZEN):
        result = check_family(family)
        if family.refused:
            wrong[family.name] = "" if family.refused in result.error else f"not refused: {result.error}"
        else:
            wrong[family.name] = missed(result)
    assert {name: text for name, text in wrong.items() if text} == {}
