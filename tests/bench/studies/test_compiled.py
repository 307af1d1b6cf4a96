"""The study of compiled layers: what the compiler kept is what its budget says, and a way that fails says so."""

import os
import subprocess
import sys

import pytest
import torch

from bdia import InvalidValueError
from bdia.bench.studies import compiled
from bdia.bench.studies.whole_step import IN_BACKWARD, build
from bdia.profiling.allocator_peak import allocator_peak
from bdia.profiling.storage_meter import StorageMeter, optimizer_state

SMALL = compiled.Arguments(width=32, heads=2, vocabulary=40, depths=[4], batch=1, tokens=64, rounds=1)


def test_the_allocator_s_peak_is_the_meter_s_where_no_operation_needs_memory_inside():
    def call():
        a = torch.ones(1000) * 2  # two tensors at once
        b = a + a
        del a
        return torch.cat([b, b])  # three

    with StorageMeter([], []) as meter:
        call()
    assert allocator_peak(call) == meter.peak == 3 * 4000


def test_the_whole_step_s_peak_is_the_meter_s_but_for_what_operations_need_inside():
    work = build(SMALL, (*compiled.STACKS["checkpointing"], IN_BACKWARD), 4)
    work.step()
    known = [*work.task.parameters(), *work.task.buffers(), *optimizer_state(work.optimizer), *work.batch]
    meter = StorageMeter(known, [])
    before = meter.total()
    with meter:
        work.step()
    assert meter.peak - before <= allocator_peak(work.step) <= 1.2 * (meter.peak - before)


def test_the_profiler_says_nothing_on_the_terminal():
    code = "import torch; from bdia.profiling.allocator_peak import allocator_peak as peak; peak(lambda: torch.ones(3))"
    environ = {key: value for key, value in os.environ.items() if key != "KINETO_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layer_budgets": [0.5, 2]}, r"layer_budgets=\[2\]: wanted shares from 0 to 1; set layer_budgets"),
        ({"whole_budgets": [-0.1]}, r"whole_budgets=\[-0.1\]: wanted shares from 0 to 1; set whole_budgets"),
        ({"depths": [0]}, "model.net.depth=0: wanted"),
    ],
)
def test_a_wrong_setting_is_an_error_and_not_a_row(wrong, said):
    with pytest.raises(InvalidValueError, match=said):
        next(compiled.measure(compiled.Arguments(**vars(SMALL) | wrong)))


@pytest.fixture
def eager(monkeypatch):
    """A compiler that only partitions graphs: no code is generated, which would take a minute."""
    from torch._dynamo.backends.debugging import aot_eager_decomp_partition

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", aot_eager_decomp_partition)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_every_stack_runs_with_compiled_layers_and_the_budget_is_each_way_s_own(eager):
    arguments = compiled.Arguments(**vars(SMALL) | {"whole_budgets": [1.0]})
    (rows,) = compiled.measure(arguments)
    found = {(row["stack"], row["graph"], row["budget"]): row for row in rows}
    assert not [row["refused"] for row in rows if "refused" in row]
    assert all((row["graphs"] > 0) == bool(row["graph"]) for row in rows)
    added = {budget: found["standard", "layers", budget]["added"] for budget in (1.0, 0.5, 0.0)}
    assert added[0.0] < added[0.5] < added[1.0]
    assert found["checkpointing", "", 1.0]["time_ratio"] == 1.0
    assert "time_ratio" in found["standard", "whole", 1.0]


def test_a_way_that_fails_and_a_stack_too_deep_for_one_graph_are_rows_that_say_why(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", broken)
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "STACKS", {name: compiled.STACKS[name] for name in ("checkpointing", "BDIA")})
    monkeypatch.setitem(compiled.STACKS, "standard", ("stack=standard",))
    arguments = compiled.Arguments(**vars(SMALL) | {"whole_up_to": 3, "layer_budgets": [], "whole_budgets": [0.5]})
    (rows,) = compiled.measure(arguments)
    refused = {row["label"]: row["refused"] for row in rows if "refused" in row}
    assert "no compiler here" in refused["BDIA, compiled layers"]
    too_deep = "4 blocks as one graph: compiled up to whole_up_to=3 only"
    assert refused["standard, compiled as a whole, budget 0.5"].endswith(too_deep)
    assert "no compiler here" in compiled.told(rows)
    assert sum("added" in row for row in rows) == len(compiled.STACKS)
