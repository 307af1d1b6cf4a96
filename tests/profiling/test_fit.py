"""fit_to_memory on models of one's own, and stack.memory_budget in a training run."""

import copy
import doctest

import pytest
import torch
from torch import nn

import bdia
import bdia.profiling.fit
from bdia.profiling import fit_to_memory
from bdia.profiling.traced_step import TrainingStep
from bdia.reversible import BdiaStack, CheckpointStack, StandardStack
from bdia.train.job import train
from helpers.step_peaks import measured_peak
from helpers.training_helpers import TINY, assert_same, checkpoint, compose_config

DEPTH = 5


def blocks(depth=DEPTH):
    torch.manual_seed(0)
    return [nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True) for _ in range(depth)]


class TwoStacks(nn.Module):
    """A long and a short stack, one behind the other."""

    def __init__(self):
        super().__init__()
        self.long, self.short = BdiaStack(blocks(6)), BdiaStack(blocks(2))

    def forward(self, x):
        return self.short(self.long(x))


def make_step(model, batch=16):
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.randn(batch, 20, 32)

    def run():
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return TrainingStep(model, optimizer, [x], run)


@pytest.mark.parametrize("stack", [BdiaStack, pytest.param(CheckpointStack, marks=pytest.mark.slow)])
def test_what_is_chosen_fits_as_measured_and_one_more_block_does_not(stack, one_thread):
    model = stack(blocks(), memory_budget=0.6)
    fit = fit_to_memory(model, make_step)
    assert (model.keep, model.memory_budget) == (fit.kept_blocks, None)
    assert 0 < model.keep < DEPTH
    assert fit.budget == pytest.approx(0.6 * measured_peak(make_step(StandardStack(blocks()))).peak, rel=0.001)
    peaks = {keep: measured_peak(make_step(stack(blocks(), keep=keep))).peak for keep in (model.keep, model.keep + 1)}
    assert fit.cost.peak == pytest.approx(peaks[model.keep], rel=0.001)
    assert peaks[model.keep] <= fit.budget < peaks[model.keep + 1]


def converted(keep=0):
    model = nn.TransformerEncoder(blocks(1)[0], DEPTH, enable_nested_tensor=False)
    bdia.convert(model, keep=keep)
    return model


def test_a_converted_models_layers_keep_what_fits_as_measured_and_one_more_does_not(one_thread):
    model, standard = converted(), converted()
    fit = fit_to_memory(model, make_step, 0.6)
    bdia.revert(standard)
    assert fit.budget == pytest.approx(0.6 * measured_peak(make_step(standard)).peak, rel=0.001)
    peaks = [measured_peak(make_step(converted(keep))).peak for keep in (fit.kept_blocks, fit.kept_blocks + 1)]
    assert 0 < fit.kept_blocks < DEPTH and peaks[0] <= fit.budget < peaks[1]
    assert fit.cost.peak == pytest.approx(peaks[0], rel=0.001)
    assert measured_peak(make_step(model)).peak == peaks[0]


@pytest.mark.slow
def test_a_larger_budget_keeps_more_blocks_and_weights_gradients_and_random_state_are_left_as_they_were():
    model = BdiaStack(blocks())
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    kept = [fit_to_memory(model, make_step, budget).kept_blocks for budget in (0.5, "1GiB")]
    assert kept[0] < kept[-1] == DEPTH
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(model.state_dict()), dict(before))
    assert all(p.grad is None and type(p) is nn.Parameter for p in model.parameters())


@pytest.mark.slow
def test_several_stacks_keep_the_same_number_as_far_as_they_go():
    model = TwoStacks()
    fit = fit_to_memory(model, make_step, 0.85)
    assert 2 < model.long.keep < 6
    assert model.short.keep == 2
    assert fit.kept_blocks == model.long.keep + 2


@pytest.mark.slow
def test_what_lies_beside_the_step_is_taken_off_the_budget():
    alone = fit_to_memory(BdiaStack(blocks()), make_step, "4MiB").kept_blocks
    beside = fit_to_memory(BdiaStack(blocks()), make_step, "4MiB", reserved=2**20).kept_blocks
    assert beside < alone


def test_a_budget_that_nothing_fits_names_budget_need_and_key():
    with pytest.raises(
        ValueError, match=r"stack\.memory_budget=1MiB \(1\.00 MiB\): keep=\d needs [\d.]+ MiB.*Set stack"
    ):
        fit_to_memory(BdiaStack(blocks(), memory_budget="1MiB"), make_step)


@pytest.mark.parametrize(
    ("model", "budget", "message"),
    [
        (StandardStack(blocks(1)), 0.5, r"StandardStack holds no stack that keeps blocks"),
        (BdiaStack(blocks(1)), None, r"stack\.memory_budget=null"),
        (BdiaStack(blocks(1)), "12", r"stack\.memory_budget=12: .*set stack\.memory_budget"),
    ],
)
def test_what_cannot_be_fitted_says_why(model, budget, message):
    with pytest.raises(ValueError, match=message):
        fit_to_memory(model, make_step, budget)


@pytest.mark.slow
def test_the_example_runs():
    result = doctest.testmod(bdia.profiling.fit)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_the_step_is_traced_for_the_device_of_the_training(monkeypatch):
    seen, trace = set(), bdia.profiling.fit.trace_step
    monkeypatch.setattr(
        bdia.profiling.fit, "trace_step", lambda make_step, device: seen.add(device) or trace(make_step, device)
    )
    fit_to_memory(BdiaStack(blocks(2)), make_step, 0.9, device="cuda")
    assert seen == {"cuda"}


# --- training runs ----------------------------------------------------------------------------------------------------

SHORT = ["trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "logger=csv"]
LIMITS = [f"+trainer.limit_{split}_batches={n}" for split, n in (("train", 3), ("val", 1), ("test", 1))]
RUNS = {
    "images": [
        *TINY,
        "model.net.depth=6",
        "model.net.tokenizer._target_=timm.layers.PatchEmbed",
        "trainer.max_epochs=1",
    ],
    "documents": ["data=pydoc", "model=gpt2_demo", *SHORT, *LIMITS],
    "sentence pairs": ["data=numbers", "model=seq2seq_demo", "data.source.train=200", *SHORT, *LIMITS],
}


@pytest.fixture
def run(tmp_path, one_thread):
    """run(kind, name, *overrides): the config and the record of a short training run."""

    def call(kind, name, *overrides):
        cfg = compose_config(
            *RUNS[kind], f"paths.runs={tmp_path / name}", f"paths.results={tmp_path / 'r'}", *overrides
        )
        return cfg, train(cfg)

    return call


@pytest.mark.slow
def test_a_runs_measured_peak_stays_within_its_budget_and_is_the_predicted_one(run, caplog):
    standard = run("images", "standard", "stack=standard")[1].final("peak_allocated")
    kept = []
    for share in (0.55, 0.8):
        record = run("images", f"b{share}", "stack=bdia", f"stack.memory_budget={share}")[1]
        assert record.final("peak_allocated") <= share * standard
        kept.append(record.final("kept_blocks"))
    assert 0 < kept[0] < kept[1] <= 6


@pytest.mark.parametrize(
    "kind", [kind if kind == "images" else pytest.param(kind, marks=pytest.mark.slow) for kind in RUNS]
)
def test_a_budget_changes_no_bit_of_a_run(run, kind):
    plain, record = run(kind, "plain", "stack=bdia", "stack.keep=0")
    budgeted, other = run(kind, "budget", "stack=bdia", "stack.memory_budget=100GiB")
    assert record.final("kept_blocks") is None
    assert other.final("kept_blocks") == (4 if kind == "documents" else 6)
    assert_same(checkpoint(budgeted)["state_dict"], checkpoint(plain)["state_dict"])
    assert other.final("peak_allocated") > record.final("peak_allocated")


@pytest.mark.slow
def test_accumulated_gradients_are_in_a_runs_budget(run):
    more = [
        "stack=bdia",
        "stack.memory_budget=0.6",
        "trainer.accumulate_grad_batches=2",
        "callbacks.peak_memory.at_batch=3",
    ]
    standard = run("images", "s", "stack=standard", *more[2:])[1].final("peak_allocated")
    assert run("images", "b", *more)[1].final("peak_allocated") <= 0.6 * standard


def test_a_run_that_cannot_fit_is_a_failed_record_that_names_the_key(run):
    with pytest.raises(ValueError, match=r"stack\.memory_budget=10KiB \(10\.0 KiB\): keep=\d needs"):
        run("images", "x", "stack=bdia", "stack.memory_budget=10KiB")
