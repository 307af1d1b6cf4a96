"""The study of Fig. 2: float inverses drift, each dtype by its own precision, and the exact form does not."""

import json

import pytest
import torch
from torch import nn

from bdia.bench.studies import reconstruction
from bdia.cli import study
from bdia.reversible import BdiaStack, TwoPoint
from helpers.reversible_helpers import make_blocks

SMALL = ["depths=[4]", "seeds=[0]", "width=32", "heads=2", "tokens=16", "batch=2"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study.run(["name=reconstruction", *SMALL, f"out={folder}"])
    (path,) = folder.iterdir()
    return json.loads(path.read_text(encoding="utf-8"))


def relative(record, form):
    return [row["relative"] for row in record["rows"] if row["form"] == form]


def test_the_exact_form_comes_back_bit_for_bit_and_floats_by_their_precision(record):
    assert relative(record, "exact") == [0.0] * 5
    double, single, half = (relative(record, dtype)[0] for dtype in ("float64", "float32", "bfloat16"))
    assert 0 < double < 1e-13 < 1e-8 < single < 1e-4 < 1e-3 < half


def test_errors_grow_from_the_last_block_to_the_first(record):
    found = relative(record, "float32")
    assert found[-2:] == [0.0, 0.0]  # the two streams that the inverse starts from
    assert found[0] > 4 * found[2] > 0


def test_the_record_says_where_and_with_what_it_was_measured(record):
    assert record["study"] == "reconstruction" and record["settings"]["depths"] == [4]
    assert {"sha", "dirty"} <= record["git"].keys() and record["device"]["torch"] == torch.__version__


def test_the_exact_states_are_those_of_the_stack():
    blocks = make_blocks(4)
    x, law = torch.randn(3, 5, 16), TwoPoint("1/2")
    torch.manual_seed(0)
    stack = BdiaStack(blocks, law, backward="stored").train()
    wanted = stack(x)
    torch.manual_seed(0)
    gammas = [None, *(law.sample(3, None, x.device) for _ in range(3))]
    states, _ = reconstruction.exact_states(blocks, x, gammas, 9)
    assert torch.equal(states[-1], wanted.detach())


def test_the_float_form_doubles_an_error_at_every_block():
    """Blocks that add nothing: x_next = gamma x_prev + (1 - gamma) x, whose inverse divides by gamma = 1/2."""
    blocks = [nn.Identity() for _ in range(6)]
    law = TwoPoint("1/2")
    generator = torch.Generator().manual_seed(0)
    gammas = [law.sample(2, generator, torch.device("cpu")) for _ in blocks]
    states = reconstruction.float_states(blocks, torch.randn(2, 3, 4), gammas, torch.float64)
    wrong = [*states[:-1], states[-1] + 1e-6]
    rebuilt = reconstruction.float_rebuilt(blocks, wrong, gammas)
    assert (rebuilt[4] - states[4]).abs().max() == pytest.approx(2e-6, rel=1e-6)
