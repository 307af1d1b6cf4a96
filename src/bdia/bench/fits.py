"""The largest batch and depth within a given memory, from steps traced without data (`bdia.profiling.traced_step`).

A trace takes seconds and does not depend on the batch, so a few are made and the rest is read off straight lines: a
step's peak is the largest of several moments' needs, each linear in the batch and in the depth. Between two traced
batches the line lies above such a curve, so what is read off there fits; beyond the traced batches and depths the line
goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from bdia.bench.cases import BUDGETS_GIB, Variant
from bdia.bench.cell import Cell
from bdia.bench.record import Row
from bdia.profiling.traced_step import TrainingStep, trace_step

BATCHES = (1, 8, 128)  # traced
BLOCKS = (4, 8)
MOST = 2**20  # no batch or depth is sought beyond
GIB = 2**30


def add_fits(cell: Cell, variant: Variant, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one model, precision and variant with what fits.

    Args:
        cell: one of the variant's; its depth and batch are not looked at.
        rows: of several depths.
    Raises:
        ValueError: the step cannot be traced. Whatever building the variant raises.
    """
    peaks = {(batch, depth): _peak(cell, variant, batch, depth) for batch in BATCHES for depth in BLOCKS}

    def need(batch: int, depth: int) -> float:
        return _line(BATCHES, [_line(BLOCKS, [peaks[b, d] for d in BLOCKS], depth) for b in BATCHES], batch)

    return [replace(row, fits={f"{gib:g}": _fits(need, row, gib * GIB) for gib in BUDGETS_GIB}) for row in rows]


def _peak(cell: Cell, variant: Variant, batch: int, depth: int) -> int:
    def make_step() -> TrainingStep:
        work = replace(cell, batch=batch, depth=depth).build(variant, "cpu")
        return TrainingStep(work.task, work.optimizer, work.batch, work.step)

    return trace_step(make_step, cell.device.type).peak


def _fits(need: Callable[[int, int], float], row: Row, budget: float) -> dict[str, int]:
    return {
        "batch": largest(lambda batch: need(batch, row.depth) <= budget),
        "depth": largest(lambda depth: need(row.batch, depth) <= budget),
    }


def _line(places: Sequence[int], values: Sequence[float], place: int) -> float:
    """Read off the broken line through the points; beyond its ends the outer pieces go on."""
    right = next((i for i in range(1, len(places) - 1) if place <= places[i]), len(places) - 1)
    left = right - 1
    slope = (values[right] - values[left]) / (places[right] - places[left])
    return values[left] + slope * (place - places[left])


def largest(fits: Callable[[int], bool]) -> int:
    """Return the largest n up to `MOST` with fits(n), 0 if there is none; where n does not fit, no larger one does."""
    low, high = 0, MOST + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
