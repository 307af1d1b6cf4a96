"""A cell: every variant built, measured and timed; one that breaks or does not fit is a row that says so."""

import itertools
from dataclasses import replace

import pytest
import torch

import bdia.bench.cell
from bdia.bench.cases import CURVE, DEPTHS, MODELS, VARIANTS, Variant, distinct
from bdia.bench.cell import Cell, run_cell, share_weights
from bdia.bench.memory import step_memory
from bdia.bench.report import bits_stored_per_block
from bdia.build import compose
from bdia.profiling.storage_meter import optimizer_state
from helpers.bench_helpers import TINY

CPU = torch.device("cpu")
SOME = {name: VARIANTS[name] for name in ("standard", "revvit", "bdia_keep_0")}


def cell(depth=2, variants=VARIANTS, batch=2, precision="32-true", model=TINY):
    return Cell("table", "tiny", model, depth, precision, batch, CPU, variants)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_variant_is_measured_and_timed_once_a_round(precision, one_thread):
    rows = run_cell(cell(precision=precision), 2)
    assert [row.variant for row in rows] == list(VARIANTS)
    assert [(row.status, row.error) for row in rows] == [("ok", None)] * len(VARIANTS)
    assert all(len(row.ms) == 2 and row.size == 2 and row.rate > 0 for row in rows)
    memory = {row.variant: row.memory for row in rows}
    parts = ("parameters", "gradients", "optimizer", "other", "activations")
    assert all(sum(found[part] for part in parts) == found["peak"] for found in memory.values())
    assert memory["standard"]["held"] > memory["checkpoint"]["held"] > memory["bdia_keep_0"]["held"] > 0
    assert memory["standard"]["side_information"] == 0


def test_bdia_holds_one_bit_and_checkpointing_thirty_two_per_activation_and_further_block(one_thread):
    names = ("checkpoint", "revvit", "bdia_keep_0", "bdia_keep_1")
    some = {name: VARIANTS[name] for name in names}
    shallow, deep = (run_cell(cell(depth, some, batch=32), 0) for depth in (2, 3))
    bits = {row.variant: bits_stored_per_block(row, [*shallow, *deep]) for row in deep}
    wanted = {"checkpoint": 32, "revvit": 0, "bdia_keep_0": 1, "bdia_keep_1": 1}
    assert bits == pytest.approx(wanted, abs=0.3)  # BDIA: and 8 bytes for gamma per sample, whose stream is tiny here


def test_a_variant_that_does_not_fit_is_a_row_and_the_others_go_on(monkeypatch, one_thread):
    def hungry(workload):
        if workload.task.net.blocks.__class__.__name__ == "RevVitStack":
            torch.empty(2**60, dtype=torch.uint8)  # more than any machine grants
        return step_memory(workload)

    monkeypatch.setattr(bdia.bench.cell, "step_memory", hungry)
    rows = {row.variant: row for row in run_cell(cell(variants=SOME), 1)}
    assert rows["revvit"].status == "oom" and "can't allocate memory" in rows["revvit"].error
    assert rows["revvit"].ms == []
    assert {row.status for name, row in rows.items() if name != "revvit"} == {"ok"}


def test_a_variant_that_breaks_is_a_row_with_its_reason(one_thread):
    broken = {"standard": VARIANTS["standard"], "broken": Variant("broken", ("stack=bdia", "stack.bits=99"))}
    standard, row = run_cell(cell(variants=broken), 1)
    assert (standard.status, row.status) == ("ok", "failed")
    assert "bits=99" in row.error


def test_out_of_memory_in_the_rounds_takes_the_variant_out_and_not_the_others(monkeypatch, one_thread):
    steps = {"standard": 0}
    real = bdia.bench.cell.Workload.step

    def step(workload):
        if workload.task.net.blocks.__class__.__name__ == "RevVitStack":
            steps["standard"] += 1
            if steps["standard"] > 3:  # a warm-up, a measured one, a round
                raise torch.OutOfMemoryError("full")
        real(workload)

    monkeypatch.setattr(bdia.bench.cell.Workload, "step", step)
    rows = {row.variant: row for row in run_cell(cell(variants=SOME), 3)}
    assert (rows["revvit"].status, rows["revvit"].ms) == ("oom", [])
    assert {len(row.ms) for name, row in rows.items() if name != "revvit"} == {3}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_the_same_weights_and_share_the_optimizers_state(variant, one_thread):
    first, other = cell().build(VARIANTS["standard"]), cell().build(VARIANTS[variant])
    first.step()
    share_weights(first, other)
    own = dict(first.task.named_parameters())
    apart = {name for name, p in other.task.named_parameters() if p is not own[name]}
    assert all(name.startswith(("net.norm", "net.head")) for name in apart) and bool(apart) == (variant == "revvit")
    assert all(other.optimizer.state[p] is first.optimizer.state[p] for n, p in own.items() if n not in apart)
    before = [p.detach().clone() for p in first.task.parameters()]
    other.step()
    assert any(not torch.equal(p, q) for p, q in zip(first.task.parameters(), before, strict=True))
    assert len(optimizer_state(other.optimizer)) == 3 * len(list(other.task.parameters()))  # step and two moments


def test_a_measured_peak_leaves_out_what_is_not_the_workloads_own(one_thread):
    alone = cell().build(VARIANTS["revvit"])
    first, other = cell().build(VARIANTS["standard"]), cell().build(VARIANTS["revvit"])
    share_weights(first, other)
    for workload in (alone, first, other):
        workload.step()
    assert step_memory(other) == step_memory(alone)


EVERY = {**VARIANTS, **CURVE}


def test_every_variant_composes():
    different = {tuple(variant.overrides_at(6)): variant for variant in EVERY.values()}
    stacks = [compose(cell(6, model=MODELS["vit_paper"]).overrides(variant)).stack for variant in different.values()]
    assert all(a != b for a, b in itertools.combinations(stacks, 2))  # each override has changed something


@pytest.mark.parametrize("name", MODELS)
def test_every_model_composes_at_the_cells_depth_and_precision(name):
    cfg = compose(cell(24, precision="bf16-mixed", model=MODELS[name]).overrides(VARIANTS["bdia_keep_half"]))
    assert (cfg.model.net.depth, cfg.trainer.precision, cfg.stack.keep) == (24, "bf16-mixed", 12)


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_variant_keeps_more_blocks_than_there_are(depth):
    overrides = [override for variant in EVERY.values() for override in variant.overrides_at(depth)]
    kept = [int(override.removeprefix("stack.keep=")) for override in overrides if override.startswith("stack.keep=")]
    assert {0, 1, depth // 2, depth} <= set(kept) and 0 <= min(kept) <= max(kept) <= depth


def test_points_of_the_curve_that_fall_together_are_measured_once():
    assert "bdia_keep_1_sixths" not in distinct(CURVE, 6)  # a sixth of six blocks is one
    assert list(distinct(CURVE, 12)) == list(CURVE)


def test_keep_grows_along_the_curve():
    kept = [variant.overrides_at(12)[-1] for variant in CURVE.values() if variant.keep_curve]
    assert kept == [f"stack.keep={k}" for k in (0, 1, 2, 4, 6, 8, 10, 12)]


def test_a_batch_is_the_one_of_the_next_depth_listed():
    model = replace(TINY, batch={"cpu": {6: 32, 12: 16}})
    assert [model.batch_at("cpu", depth) for depth in (2, 6, 7, 12, 99)] == [32, 32, 16, 16, 16]
