"""What a memory allows: a ceiling for this process on a CPU, and the largest batch and depth planned within a budget.

The plan comes from steps traced without data (`bdia.profiling.traced_step`).
A trace takes seconds and does not depend on the batch. So a few are made and the rest is read off straight lines: a
step's peak is the largest of several moments' needs, each linear in the batch and in the depth. Between two traced
batches the line lies above such a curve, so what is read off there fits. Beyond the traced batches and depths the line
goes on.
"""

import contextlib
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from bdia.bench.cases import BUDGETS_GIB, Variant
from bdia.bench.cell import Cell
from bdia.bench.record import VariantRow
from bdia.profiling.machine import free_bytes, status_bytes
from bdia.profiling.search import largest_that_fits
from bdia.profiling.sizes import GIB
from bdia.profiling.traced_step import TrainingStep, trace_step

SHARE = 0.95  # of the free memory
BATCHES = (1, 8, 128)  # traced
BLOCKS = (4, 8)
MOST = 2**20  # no batch or depth is sought beyond


@contextlib.contextmanager
def memory_ceiling(device: torch.device) -> Iterator[None]:
    """Inside, allocations beyond what is free now fail at once, if the device is a CPU.

    Does nothing where the system does not say what is free (no Linux).

    Without it Linux grants more than there is and then kills the process.
    """
    free, used = free_bytes(), status_bytes("VmData")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if device.type == "cpu" and free is not None and used is not None:
        ceiling = used + int(SHARE * free)
        hard = before[1]
        soft = ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def add_fits(cell: Cell, variant: Variant, rows: Sequence[VariantRow]) -> list[VariantRow]:
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


def _fits(need: Callable[[int, int], float], row: VariantRow, budget: float) -> dict[str, int]:
    return {
        "batch": largest_that_fits(lambda batch: need(batch, row.depth), budget, [row.batch], most=MOST),
        "depth": largest_that_fits(lambda depth: need(row.batch, depth), budget, [row.depth], most=MOST),
    }


def _line(places: Sequence[int], values: Sequence[float], place: int) -> float:
    """Read off the broken line through the points; beyond its ends the outer pieces go on."""
    right = next((i for i in range(1, len(places) - 1) if place <= places[i]), len(places) - 1)
    left = right - 1
    slope = (values[right] - values[left]) / (places[right] - places[left])
    return values[left] + slope * (place - places[left])
