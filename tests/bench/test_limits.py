"""A step that needs more than is free is an error; what fits into a memory is read off a few traced steps."""

import sys

import pytest
import torch

import bdia.bench.limits
import bdia.profiling.machine
from bdia.bench.cases import VARIANTS
from bdia.bench.cell import Cell
from bdia.bench.limits import _line, _peak, add_fits, memory_ceiling
from bdia.profiling.machine import free_bytes, status_bytes
from bdia.profiling.sizes import GIB
from bdia.results.record import status_of
from helpers.bench_helpers import TINY, row

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the ceiling is Linux's")


@linux
def test_beyond_what_is_free_an_allocation_is_refused_and_counts_as_out_of_memory():
    with memory_ceiling(CPU):
        torch.ones(1000)
        with pytest.raises(RuntimeError) as refused:
            torch.empty(free_bytes() + 2**28, dtype=torch.uint8)
    assert status_of(refused.value) == "oom"


@linux
def test_the_ceiling_lies_within_what_is_free_and_is_taken_away_again_after_an_error_too():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(KeyError), memory_ceiling(CPU):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        raise KeyError
    assert soft != before[0] and 0 < soft < status_bytes("VmData") + free_bytes() and hard == before[1]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_no_ceiling_is_set_for_a_gpu():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_ceiling(torch.device("cuda")):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_is_free_is_the_machines_or_the_control_groups_whichever_is_less(monkeypatch):
    monkeypatch.setattr(bdia.profiling.machine, "_read_kib", lambda path, name: 7000)
    for group, wanted in ((None, 7000), (5000, 5000), (9000, 7000)):
        monkeypatch.setattr(bdia.profiling.machine, "_group_bytes", lambda group=group: group)
        assert free_bytes() == wanted


def test_a_broken_line_goes_through_its_points_and_on_beyond_them():
    places, values = (1, 8, 64), (10.0, 24.0, 360.0)
    assert [_line(places, values, place) for place in places] == list(values)
    assert _line(places, values, 4) == 16 and _line(places, values, 0) == 8 and _line(places, values, 65) == 366


def test_batch_and_depth_are_read_off_the_traces_at_the_rows_own_depth_and_batch(monkeypatch):
    monkeypatch.setattr(bdia.bench.limits, "_peak", lambda *at: at[3] * (3 + at[2]) * GIB // 100)
    rows = add_fits(None, None, [row(depth=6, batch=8), row(depth=12, batch=8)])
    assert [found.fits["4"] for found in rows] == [{"batch": 63, "depth": 36}, {"batch": 30, "depth": 36}]
    assert rows[0].fits["1"] == {"batch": 13, "depth": 9}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "bdia_keep_1", "bdia_keep_half"])
def test_a_step_of_the_planned_batch_and_depth_fits_and_is_not_far_below_the_memory(name, one_thread):
    cell = Cell("table", "tiny", TINY, 6, "32-true", 64, CPU, VARIANTS)
    (found,) = add_fits(cell, VARIANTS[name], [row(name, depth=6, batch=64, model="tiny")])
    batch = found.fits["1"]["batch"]
    assert 0.9 * GIB < _peak(cell, VARIANTS[name], batch, 6) <= 1.001 * GIB
    assert found.fits["1"]["batch"] < found.fits["4"]["batch"] < found.fits["16"]["batch"]
    assert found.fits["1"]["depth"] < found.fits["4"]["depth"]
