"""PeakMemory in a real fit: exact numbers, the order of the stacks, and no influence on training."""

import csv
import functools

import pytest
import torch
from lightning.pytorch import Callback

from bdia.callbacks import PeakMemory
from bdia.results.store import read_records
from bdia.train.job import train
from helpers.training_helpers import (
    TINY,
    assert_resumes_exactly,
    assert_same,
    broken,
    checkpoint,
    compose_config,
    run_dir,
)

MIB = 2**20
DEEP = (
    "data.train_per_class=8",
    "data.batch_size=40",
    "model.net.depth=8",
    "model.net.width=32",
    "model.net.tokenizer._target_=timm.layers.PatchEmbed",  # shifted patches would outweigh such small blocks
    "trainer.max_epochs=1",
)
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "other")
MEASUREMENTS = ("peak_memory", "reversibility", "step_timer")  # without the history there is no record


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """peaks(stack): the record of a deep tiny job, run once."""

    @functools.cache
    def record(stack):
        root = tmp_path_factory.mktemp(stack)
        return train(compose_config(*TINY, *DEEP, f"stack={stack}", f"paths.runs={root}", f"paths.results={root}/r"))

    return record


def test_stacks_that_rebuild_activations_peak_below_the_standard_stack(peaks):
    standard, checkpointing, revvit, bdia = (
        peaks(stack).final("peak_activations") for stack in ("standard", "checkpoint", "revvit", "bdia")
    )
    assert bdia < standard / 2
    assert checkpointing < standard / 2
    assert revvit < standard / 2


def test_the_categories_add_up_and_state_is_counted_exactly(peaks):
    record = peaks("bdia")
    value = {name: record.final(name) * MIB for name in map("peak_{}".format, CATEGORIES)}
    assert sum(value.values()) == pytest.approx(record.final("peak_allocated") * MIB, abs=1e-6)
    weights = 4 * record.final("parameters")
    assert value["peak_parameters"] == weights
    assert 2 * weights <= value["peak_optimizer"] <= 2 * weights + 4 * 1000  # two moments, a step count per tensor
    assert 0 <= value["peak_gradients"] <= weights
    assert value["peak_other"] == 40 * (3 * 32 * 32 * 4 + 8)  # one batch of float32 images and int64 labels
    assert record.final("model_state") * MIB == 2 * weights + value["peak_optimizer"]
    assert record.final("activation_peak") == record.final("peak_activations")


def test_bdia_keeps_one_bit_per_activation_and_block_but_the_ends(peaks):
    record = peaks("bdia")
    assert record.final("side_information") * MIB == (8 - 2) * 40 * 17 * 32 / 8  # (K - 2) B T D bits
    assert peaks("standard").final("side_information") == 0


def test_the_resident_data_set_is_stated_beside_the_peak(peaks):
    assert peaks("standard").final("resident_data") * MIB == 80 * (3 * 32 * 32 + 8)


RAMP = "bdia gamma@stack.gamma=ramp stack.gamma.every=4"  # 10 passes: +-1/32, then +-1/16, then +-1/8


@pytest.mark.parametrize(
    "stack", [RAMP, *(pytest.param(name, marks=pytest.mark.slow) for name in ("standard", "revvit"))]
)
def test_measuring_and_drawing_its_curves_does_not_change_a_bit_of_the_training(tiny, stack, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    measured, bare = (
        tiny("trainer.max_epochs=2", *f"stack={stack}".split(), f"paths.runs={tmp_path / name}", *more)
        for name, more in (
            ("a", ["logger=default"] if stack == RAMP else []),
            ("b", ["~logger", *(f"~callbacks.{name}" for name in MEASUREMENTS)]),
        )
    )
    assert len(train(measured).metrics) > 10
    assert {row.name for row in train(bare).metrics} == {"parameters", "loss", "accuracy", "lr"}
    for part in ("state_dict", "optimizer_states"):
        assert_same(checkpoint(measured)[part], checkpoint(bare)[part], part)


def curves(cfg):
    """Name -> [(step, value)] of the run's metrics.csv."""
    (table,) = run_dir(cfg).glob("csv/version_0/metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in rows[0]}


def test_what_changes_while_training_is_drawn_when_it_is_known(tiny):
    """gamma = +-1/32, +-1/16, +-1/8 for four passes each: 5, 4, 3 bits, and memory falls with them."""
    cfg = tiny("trainer.max_epochs=2", *f"stack={RAMP}".split())
    record, drawn = train(cfg), curves(cfg)
    assert [step for step, _ in drawn["side_information"]] == [2, 6, 10]
    side = [value for _, value in drawn["side_information"]]
    assert side == pytest.approx([side[2] * bits / 3 for bits in (5, 4, 3)])
    for name in ("peak_allocated", "peak_activations", "reconstruction_error", "side_information"):
        assert drawn[name] == [(row.step, pytest.approx(row.value)) for row in record.curve(name)]
    peaks = [value for _, value in drawn["peak_allocated"]]
    assert len(peaks) == 3 and peaks == sorted(peaks, reverse=True)
    assert drawn["reconstruction_error"] == [(3, 0.0), (8, 0.0)]
    assert [step for step, _ in drawn["train/lr"]] == [5, 10] == [step for step, _ in drawn["epoch_time"]]
    assert [step for step, _ in drawn["step_time"]] == [10] == [step for step, _ in drawn["throughput"]]


@pytest.mark.slow
def test_memory_of_later_laws_is_measured_on_the_same_batches_after_a_resume(tiny, add_callbacks, tmp_path):
    choices = ["trainer.max_epochs=3", *f"stack={RAMP}".split()]
    cfg, whole = tiny(*choices), tiny(*choices, f"paths.runs={tmp_path / 'whole'}", f"paths.results={tmp_path / 'r'}")
    assert_resumes_exactly(cfg, whole, add_callbacks, ("on_train_batch_start", 12, broken), 15)
    found, wanted = (read_records(each.paths.results)[-1] for each in (cfg, whole))
    assert [row for row in found.metrics if row.name.startswith("peak")] == [
        row for row in wanted.metrics if row.name.startswith("peak")
    ]


def test_a_run_that_fails_while_measuring_leaves_the_meter(tiny, add_callbacks):
    class Fail(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            if trainer.global_step == 1:
                raise RuntimeError("while measuring")

    add_callbacks(Fail())
    with pytest.raises(RuntimeError, match="while measuring"):
        train(tiny())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_the_first_batch_cannot_be_measured():
    with pytest.raises(ValueError, match=r"callbacks\.peak_memory\.at_batch"):
        PeakMemory(at_batch=0)
