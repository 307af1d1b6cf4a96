"""The tables of a bench: time, memory, what fits. Every variant of every cell is a row, measured or not."""

from collections.abc import Sequence
from typing import Any

from bdia.bench.cases import BUDGETS_GIB, CURVE, MODELS, VARIANTS
from bdia.bench.held import bits_per_extra_block
from bdia.bench.record import Bench, Row
from bdia.bench.times import Times
from bdia.results.published import PUBLISHED, TABLE_1
from bdia.results.statistics import NONE
from bdia.results.tables import Table

MIB = 2**20
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "loss_head", "other")
PAPER_SETTING = (6, 128, "32-true")  # blocks, batch, precision of Table 1


def time_table(rows: Sequence[Row]) -> Table:
    """Return step times: median, quartiles, least, and ratios to the standard stack and to checkpointing.

    A ratio is that of the medians; behind it in brackets the median of the rounds' own ratios.
    """
    heads = ["blocks, precision, variant", "batch", "n", "step ms, median", "quartiles", "least"]
    heads += ["x standard", "x checkpointing", "per second"]
    return Table(heads, [_time_cells(row, rows) for row in rows])


def _time_cells(row: Row, rows: Sequence[Row]) -> list[str]:
    start = [_name(row), str(row.batch), str(len(row.ms))]
    if row.times is None:
        return [*start, reason(row), *[NONE] * 5]
    low, high = row.times.quartiles
    times = [_number(row.times.median), f"{_number(low)} to {_number(high)}", _number(min(row.ms))]
    ratios = [ratio(row, partner(row, rows, name)) for name in ("standard", "checkpoint")]
    return [*start, *times, *ratios, f"{_number(row.rate)} {row.unit}"]


def partner(row: Row, rows: Sequence[Row], variant: str) -> Row | None:
    """Return the row of another variant that was interleaved with this one."""
    return next((other for other in rows if other.group == row.group and other.variant == variant), None)


def ratio(row: Row, other: Row | None) -> str:
    """Return the ratio of the two rows' medians, in brackets the median of the rounds' own ratios."""
    if row.times is None or other is None or other.times is None:
        return NONE
    return f"{row.times.ratio_of_medians(other.times):.3f} ({row.times.median_ratio(other.times):.3f})"


def memory_table(rows: Sequence[Row]) -> Table:
    """Return peak memory by category, what is held between forward and backward, and the paper's peak beside ours."""
    shown = [name for name in CATEGORIES if any(row.memory.get(name) for row in rows)]
    allocator = ["allocator's peak"] if any("peak_allocated" in row.memory for row in rows) else []
    heads = ["blocks, precision, variant", "batch", "n", "peak, MiB", *allocator, *shown]
    heads += ["held, MiB", "bits per activation and further block", "paper, MB"]
    return Table(
        [head.replace("_", " ") for head in heads], [_memory_cells(row, rows, shown, bool(allocator)) for row in rows]
    )


def _memory_cells(row: Row, rows: Sequence[Row], shown: Sequence[str], allocator: bool) -> list[str]:
    def mib(name: str) -> str:
        return _number(row.memory[name] / MIB) if name in row.memory else NONE

    start = [_name(row), str(row.batch), str(len(row.ms))]
    peaks = [mib("peak") if row.memory else reason(row), *([mib("peak_allocated")] if allocator else [])]
    bits = bits_per_extra_block(row, rows)
    held = [mib("held"), NONE if bits is None else f"{bits:.2f}"]
    return [*start, *peaks, *map(mib, shown), *held, published_peak(row) or NONE]


def published_peak(row: Row) -> str | None:
    """Return the paper's peak memory, e.g. "693.4", where the setting is the paper's; else None."""
    variant = {**CURVE, **VARIANTS}.get(row.variant)
    model = MODELS.get(row.model)
    if variant is None or model is None or not model.paper:
        return None
    if (row.depth, row.batch, row.precision) != PAPER_SETTING:
        return None
    found = (entry for entry in PUBLISHED if (entry.source, entry.form) == (TABLE_1, variant.paper))
    return next((entry.memory.removesuffix(" MB") for entry in found), None)


def fit_table(rows: Sequence[Row]) -> Table | None:
    """Return the planner's largest batch and depth within each memory; None where it was not asked."""
    if not any(row.fits for row in rows):
        return None
    budgets = [f"{budget:g}" for budget in BUDGETS_GIB]
    heads = ["blocks, precision, variant", "batch"]
    heads += [f"{what} in {budget} GiB" for what in ("largest batch", "most blocks") for budget in budgets]
    cells = [
        [str(row.fits.get(budget, {}).get(what, NONE)) for what in ("batch", "depth") for budget in budgets]
        for row in rows
    ]
    return Table(heads, [[_name(row), str(row.batch), *found] for row, found in zip(rows, cells, strict=True)])


def overhead_table(bench: Bench) -> Table:
    """Return what data loading, logging and callbacks cost per step."""
    heads = ["model", "settings", "n", "bare step, ms", "step of a run, ms", "overhead, ms", "overhead, %"]
    return Table(heads, [_overhead_cells(entry) for entry in bench.overhead])


def _overhead_cells(entry: dict[str, Any]) -> list[str]:
    times = [Times(tuple(entry[name])) for name in ("bare_ms", "run_ms")]
    numbers = [_number(found.median) for found in times]
    return [
        entry["model"],
        " ".join(entry["overrides"]),
        str(times[0].n),
        *numbers,
        f"{entry['extra_ms']:.2f}",
        f"{entry['percent']:.2f}",
    ]


def _name(row: Row) -> str:
    return f"{row.depth}, {row.precision}, {row.label}"


def reason(row: Row) -> str:
    """Say why a row has no numbers."""
    return {"oom": "out of memory"}.get(row.status, row.status) + (f": {row.error[:80]}" if row.error else "")


def _number(value: float) -> str:
    """Four figures."""
    digits = max(0, 4 - len(str(int(abs(value)))))
    return f"{value:,.{digits}f}"
