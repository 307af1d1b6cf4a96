"""Tables, verdict on the curve, plots."""

import re

import pytest

from bdia.bench.plots import write_plots
from bdia.bench.report import (
    bits_stored_per_block,
    curve_verdict,
    document,
    fit_table,
    memory_table,
    published_peak,
    text,
    time_table,
)
from helpers.bench_helpers import MIB, bench, row

SEVEN = (100.0, 101.0, 99.0, 100.0, 102.0, 98.0, 100.0)
ROWS = [
    row("standard", ms=SEVEN),
    row("checkpoint", ms=tuple(1.3 * t for t in SEVEN)),
    row("bdia_keep_1", ms=tuple(1.2 * t for t in SEVEN)),
    row("revvit", ms=(), status="oom", error="can't allocate memory", peak=0),
]


def test_every_row_is_in_both_tables_with_its_n_measured_or_not():
    for table in (time_table(ROWS), memory_table(ROWS)):
        assert [cells[0] for cells in table.rows] == [f"6, 32-true, {r.variant}" for r in ROWS]
        assert [cells[table.columns.index("n")] for cells in table.rows] == ["7", "7", "7", "0"]
        assert all(len(cells) == len(table.columns) for cells in table.rows)
        assert "out of memory: can't allocate memory" in table.rows[-1]


def test_ratios_are_to_the_standard_stack_and_to_checkpointing_of_the_same_cell():
    others = [row("standard", depth=12, ms=tuple(9 * t for t in SEVEN))]
    table = time_table([*others, *ROWS])
    (bdia,) = [cells for cells in table.rows if "bdia" in cells[0]]
    assert bdia[table.columns.index("x standard")] == "1.200 (1.200)"
    assert bdia[table.columns.index("x checkpointing")] == "0.923 (0.923)"
    assert table.rows[0][table.columns.index("x checkpointing")] == "\N{EN DASH}"
    assert bdia[table.columns.index("per second")] == "1,067 images"


def test_the_ratio_of_medians_comes_before_the_median_of_the_rounds_own_ratios():
    standard = row("standard", ms=(40.0, 40.0, 40.0, 100.0, 100.0, 100.0, 100.0))
    table = time_table([standard, row("bdia", ms=(50.0, 50.0, 50.0, 90.0, 100.0, 100.0, 100.0))])
    assert table.rows[1][table.columns.index("x standard")] == "0.900 (1.000)"


def test_bits_per_block_come_from_two_depths_of_one_batch():
    shallow, deep = row(held=8000, stream=1000), row(depth=12, held=8000 + 6 * 125, stream=1000)
    assert bits_stored_per_block(deep, [shallow, deep]) == 1.0
    assert bits_stored_per_block(shallow, [shallow, deep]) is None
    assert bits_stored_per_block(deep, [row(held=8000, batch=64), deep]) is None
    deeper = row(depth=24, held=8000 + 6 * 125 + 12 * 250, stream=1000)
    assert bits_stored_per_block(deeper, [shallow, deep, deeper]) == 2.0  # beyond the next smaller depth


def test_the_papers_peak_stands_beside_ours_only_where_the_setting_is_the_papers():
    assert [published_peak(r) for r in ROWS] == ["1570.6", None, "693.4", "572.7"]
    for other in ({"depth": 12}, {"batch": 64}, {"precision": "bf16-mixed"}, {"model": "gpt2"}):
        assert published_peak(row(**other)) is None


CURVE = [
    row(f"bdia_keep_{k}", part="curve", keep_curve=True, ms=(t,) * 7, peak=p * MIB)
    for k, t, p in ((0, 140.0, 50), (1, 130.0, 50), ("half", 120.0, 80), ("all", 100.0, 120))
]


def test_the_curve_is_monotone_where_time_never_rises_and_memory_never_falls():
    assert "4 points: monotone in both axes" in curve_verdict(CURVE)
    a_byte_less = row("bdia_keep_1", part="curve", keep_curve=True, ms=(130.0,) * 7, peak=50 * MIB - 1)
    assert "4 points: monotone in both axes" in curve_verdict([CURVE[0], a_byte_less, *CURVE[2:]])
    slower = [*CURVE[:3], row("bdia_keep_all", part="curve", keep_curve=True, ms=(121.0,) * 7, peak=120 * MIB)]
    assert "NOT monotone in both axes (time rises somewhere, memory never falls)" in curve_verdict(slower)
    smaller = [*CURVE[:3], row("bdia_keep_all", part="curve", keep_curve=True, ms=(100.0,) * 7, peak=79 * MIB)]
    assert "NOT monotone in both axes (time never rises, memory falls somewhere)" in curve_verdict(smaller)


def test_baselines_beside_the_curve_do_not_count_and_missing_points_are_named():
    baselines = [row("standard", part="curve", ms=(1.0,) * 7), row("revvit", part="curve", ms=(999.0,) * 7)]
    assert "4 points: monotone" in curve_verdict([*baselines, *CURVE])
    lost = row("bdia_keep_all", part="curve", keep_curve=True, ms=(), status="oom", peak=0)
    assert "3 points: monotone" in (said := curve_verdict([*CURVE[:3], lost])) and "Not measured: bdia_keep_all" in said
    assert "fewer than two points" in curve_verdict(baselines)


def test_what_fits_is_a_table_only_where_it_was_planned():
    assert fit_table(ROWS) is None
    table = fit_table([row(fits={"1": {"batch": 96, "depth": 3}, "4": {"batch": 512, "depth": 40}}), ROWS[-1]])
    assert table.rows[0][2:] == ["96", "512", "\N{EN DASH}", "3", "40", "\N{EN DASH}"]
    assert set(table.rows[1][2:]) == {"\N{EN DASH}"}


@pytest.mark.parametrize("form", [document, text])
def test_the_document_says_where_it_ran_and_holds_every_row(form):
    shown = form(bench(*ROWS, *CURVE, status="running"))
    for said in ("commit abcdef0", "Abacus, 2 threads", "OMP_NUM_THREADS=2", "did not get to its end"):
        assert said in shown
    assert all(len(re.findall(rf"6, 32-true, {r.label} ", shown)) >= 2 for r in [*ROWS, *CURVE])
    assert "monotone in both axes" in shown


def test_plots_are_drawn_for_what_was_measured_the_same_bytes_twice(tmp_path):
    deep = [row(r.variant, depth=12, ms=r.ms, peak=0 if not r.memory else 100 * MIB) for r in ROWS]
    full = bench(*ROWS, *deep, *CURVE)
    written = write_plots(full, tmp_path)
    assert [file.partition("0_")[2] for _, file in written] == ["memory.svg", "time.svg", "trade_off.svg"]
    first = [(tmp_path / file).read_text() for _, file in written]
    assert all(svg.count("<svg") == 1 for svg in first)
    write_plots(full, tmp_path)
    assert [(tmp_path / file).read_text() for _, file in written] == first
    assert write_plots(bench(*ROWS), tmp_path) == []  # one depth, no curve
