"""The study of equal memory: what is read off the other curve at a peak, and that the peaks are those of `keep`."""

import pytest

from bdia.bench.studies import equal_memory


def row(curve, keep, peak, ms):
    return {"depth": 8, "curve": curve, "keep": keep, "peak": peak, "rounds_ms": [ms, ms]}


ROWS = [
    row("checkpointing", 0, 100, 10.0), row("checkpointing", 8, 300, 8.0),
    row("BDIA", 0, 60, 11.0), row("BDIA", 4, 140, 9.0), row("BDIA", 8, 320, 8.5),
    row("two-level checkpointing", 0, 70, 13.0),
]  # fmt: skip


def test_the_other_curves_time_at_a_peak_lies_between_its_neighbouring_points():
    found = {(r["curve"], r["keep"]): r for r in equal_memory.with_answers([dict(r) for r in ROWS])}
    assert found["BDIA", 0]["time_ratio"] == 1.1 and found["two-level checkpointing", 0]["time_ratio"] == 1.3
    assert found["checkpointing", 0]["at_this_peak"] == pytest.approx(1.0)  # halfway from 1.1 to 0.9
    assert found["BDIA", 0]["at_this_peak"] is None, "checkpointing needs more at all its points"
    assert found["BDIA", 8]["at_this_peak"] == 0.8, "all of checkpointing's points need less"


def test_kept_blocks_raise_the_peak_and_the_answer_is_said():
    small = equal_memory.Arguments(width=32, heads=2, vocabulary=40, depths=[8], batch=1, tokens=64)
    small.shares, small.rounds = [0.0, 1.0], 1
    (rows,) = equal_memory.measure(small)
    peaks = {(r["curve"], r["keep"]): r["peak"] for r in rows}
    assert peaks["BDIA", 0] < peaks["BDIA", 8] and peaks["checkpointing", 0] < peaks["checkpointing", 8]
    assert "of its time" in equal_memory.told(rows)
