"""What fits into a memory, read off a few traced steps."""

import pytest
import torch

import bdia.bench.fits
from bdia.bench.cases import VARIANTS
from bdia.bench.cell import Cell
from bdia.bench.fits import GIB, _line, _peak, add_fits, largest
from helpers.bench_helpers import TINY, row


@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
def test_the_largest_that_fits_fits_and_the_next_does_not(limit):
    assert largest(lambda n: n <= limit) == limit


def test_a_broken_line_goes_through_its_points_and_on_beyond_them():
    places, values = (1, 8, 64), (10.0, 24.0, 360.0)
    assert [_line(places, values, place) for place in places] == list(values)
    assert _line(places, values, 4) == 16 and _line(places, values, 0) == 8 and _line(places, values, 65) == 366


def test_batch_and_depth_are_read_off_the_traces_at_the_rows_own_depth_and_batch(monkeypatch):
    monkeypatch.setattr(bdia.bench.fits, "_peak", lambda cell, variant, batch, depth: depth * (3 + batch) * GIB // 100)
    rows = add_fits(None, None, [row(depth=6, batch=8), row(depth=12, batch=8)])
    assert [found.fits["4"] for found in rows] == [{"batch": 63, "depth": 36}, {"batch": 30, "depth": 36}]
    assert rows[0].fits["1"] == {"batch": 13, "depth": 9}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "bdia_keep_1", "bdia_keep_half"])
def test_a_step_of_the_planned_batch_and_depth_fits_and_is_not_far_below_the_memory(name, one_thread):
    cell = Cell("table", "tiny", TINY, 6, "32-true", 64, torch.device("cpu"), VARIANTS)
    (found,) = add_fits(cell, VARIANTS[name], [row(name, depth=6, batch=64, model="tiny")])
    batch = found.fits["1"]["batch"]
    assert 0.9 * GIB < _peak(cell, VARIANTS[name], batch, 6) <= 1.001 * GIB
    assert found.fits["1"]["batch"] < found.fits["4"]["batch"] < found.fits["16"]["batch"]
    assert found.fits["1"]["depth"] < found.fits["4"]["depth"]
