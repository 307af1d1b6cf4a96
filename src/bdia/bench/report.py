"""A bench as tables and as a document: where it ran, time, memory, what fits, the verdict on the trade-off curve."""

from collections.abc import Callable, Sequence
from typing import Any

from bdia.bench.cases import BUDGETS_GIB, CURVE, MODELS, VARIANTS
from bdia.bench.record import Bench, VariantRow
from bdia.bench.timing import Times, falls, rises
from bdia.profiling.sizes import CATEGORIES, MIB
from bdia.results.published import PUBLISHED, TABLE_1
from bdia.results.statistics import NONE
from bdia.results.tables import Table, markdown, plain

SHOWN = (*CATEGORIES[:-1], "loss_head", CATEGORIES[-1])  # the loss head's memory is part of the activations
PAPER_SETTING = (6, 128, "32-true")  # blocks, batch, precision of Table 1


def time_table(rows: Sequence[VariantRow]) -> Table:
    """Return step times: median, quartiles, least, and ratios to the standard stack and to checkpointing.

    A ratio is that of the medians; behind it in brackets the median of the rounds' own ratios.
    """
    heads = ["blocks, precision, variant", "batch", "n", "step ms, median", "quartiles", "least"]
    heads += ["x standard", "x checkpointing", "per second"]
    return Table(heads, [_time_cells(row, rows) for row in rows])


def _time_cells(row: VariantRow, rows: Sequence[VariantRow]) -> list[str]:
    start = [_name(row), str(row.batch), str(len(row.ms))]
    if row.times is None:
        return [*start, reason(row), *[NONE] * 5]
    low, high = row.times.quartiles
    times = [_number(row.times.median), f"{_number(low)} to {_number(high)}", _number(min(row.ms))]
    ratios = [ratio(row, partner(row, rows, name)) for name in ("standard", "checkpoint")]
    return [*start, *times, *ratios, f"{_number(row.rate)} {row.unit}"]


def partner(row: VariantRow, rows: Sequence[VariantRow], variant: str) -> VariantRow | None:
    """Return the row of another variant that was interleaved with this one."""
    return next((other for other in rows if other.group == row.group and other.variant == variant), None)


def ratio(row: VariantRow, other: VariantRow | None) -> str:
    """Return the ratio of the two rows' medians, in brackets the median of the rounds' own ratios."""
    if row.times is None or other is None or other.times is None:
        return NONE
    return f"{row.times.ratio_of_medians(other.times):.3f} ({row.times.median_ratio(other.times):.3f})"


def memory_table(rows: Sequence[VariantRow]) -> Table:
    """Return peak memory by category, what is held between forward and backward, and the paper's peak beside ours."""
    shown = [name for name in SHOWN if any(row.memory.get(name) for row in rows)]
    allocator = ["allocator's peak"] if any("peak_allocated" in row.memory for row in rows) else []
    heads = ["blocks, precision, variant", "batch", "n", "peak, MiB", *allocator, *shown]
    heads += ["held, MiB", "bits per activation and further block", "paper, MB"]
    return Table(
        [head.replace("_", " ") for head in heads], [_memory_cells(row, rows, shown, bool(allocator)) for row in rows]
    )


def _memory_cells(row: VariantRow, rows: Sequence[VariantRow], shown: Sequence[str], allocator: bool) -> list[str]:
    def mib(name: str) -> str:
        return _number(row.memory[name] / MIB) if name in row.memory else NONE

    start = [_name(row), str(row.batch), str(len(row.ms))]
    peaks = [mib("peak") if row.memory else reason(row), *([mib("peak_allocated")] if allocator else [])]
    bits = bits_stored_per_block(row, rows)
    held = [mib("held"), NONE if bits is None else f"{bits:.2f}"]
    return [*start, *peaks, *map(mib, shown), *held, published_peak(row) or NONE]


def published_peak(row: VariantRow) -> str | None:
    """Return the paper's peak memory, e.g. "693.4", where the setting is the paper's; else None."""
    variant = {**CURVE, **VARIANTS}.get(row.variant)
    model = MODELS.get(row.model)
    if variant is None or model is None or not model.paper:
        return None
    if (row.depth, row.batch, row.precision) != PAPER_SETTING:
        return None
    found = (entry for entry in PUBLISHED if (entry.source, entry.form) == (TABLE_1, variant.paper))
    return next((entry.memory.removesuffix(" MB") for entry in found), None)


def fit_table(rows: Sequence[VariantRow]) -> Table | None:
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


def _name(row: VariantRow) -> str:
    return f"{row.depth}, {row.precision}, {row.label}"


def reason(row: VariantRow) -> str:
    """Say why a row has no numbers."""
    return {"oom": "out of memory"}.get(row.status, row.status) + (f": {row.error[:80]}" if row.error else "")


def _number(value: float) -> str:
    """Four figures."""
    digits = max(0, 4 - len(str(int(abs(value)))))
    return f"{value:,.{digits}f}"


def bits_stored_per_block(row: VariantRow, rows: Sequence[VariantRow]) -> float | None:
    """Return the bits held per activation (B * T * D of them) and block beyond the next smaller depth measured.

    None where no smaller depth was measured with the same batch.
    """
    same = [other for other in rows if _setting(other) == _setting(row) and other.depth < row.depth]
    smaller = max((other for other in same if "held" in other.memory), key=lambda other: other.depth, default=None)
    if smaller is None or "held" not in row.memory:
        return None
    extra = (row.memory["held"] - smaller.memory["held"]) / (row.depth - smaller.depth)
    return 8 * extra / row.memory["stream"]


def _setting(row: VariantRow) -> tuple[str, str, str, str, int]:
    return row.part, row.model, row.precision, row.variant, row.batch


def document(bench: Bench, figures: Sequence[tuple[str, str]] = ()) -> str:
    """Return the whole bench as Markdown; `figures` are (caption, file)."""
    parts = [
        f"# Bench {bench.bench_id}",
        "Generated from the JSON of the same name: do not edit. README.md says how to read it.",
    ]
    parts.append("\n".join(f"- {line}" for line in provenance(bench)))
    parts += _sections(bench, markdown, lambda title: f"## {title}")
    parts += [f"![{caption}]({file})" for caption, file in figures]
    return "\n\n".join(parts) + "\n"


def text(bench: Bench) -> str:
    """Return the tables for a terminal."""
    return "\n\n".join([*provenance(bench), *_sections(bench, plain, lambda title: title)])


def provenance(bench: Bench) -> list[str]:
    """Return lines that say where and with which code the bench ran."""
    device = bench.device
    dirty = ", with uncommitted changes" if bench.git["dirty"] else ""
    lines = [f"commit {bench.git['sha'][:7]}{dirty}; started {bench.started_utc}; {bench.wall_s / 60:.1f} minutes"]
    lines.append(
        f"{device['name']}, {device['threads']} threads, torch {device['torch']}, CUDA {device['cuda'] or 'not used'}"
    )
    if bench.environment:
        lines.append("environment: " + ", ".join(f"{key}={value}" for key, value in bench.environment.items()))
    if bench.status != "ok":
        lines.append(f"status {bench.status}: the bench did not get to its end")
    return lines


def _sections(bench: Bench, form: Callable[[Table], str], title: Callable[[str], str]) -> list[str]:
    parts = []
    for part, model in dict.fromkeys((row.part, row.model) for row in bench.rows):
        rows = [row for row in bench.rows if (row.part, row.model) == (part, model)]
        what = "trade-off" if part == "curve" else "all variants"
        parts += [title(f"{model}, {what}: time of a step"), form(time_table(rows))]
        parts += [title(f"{model}, {what}: memory of a step"), form(memory_table(rows))]
        parts += [curve_verdict(rows)] if part == "curve" else []
        if (fits := fit_table(rows)) is not None:
            parts += [title(f"{model}, {what}: what fits, as planned"), form(fits)]
    if bench.overhead:
        parts += [title("A whole training run beside its bare steps"), form(overhead_table(bench))]
    return parts


def curve_verdict(rows: Sequence[VariantRow]) -> str:
    """Say whether time never rises and memory never falls along the points of the curve over `keep`, with the numbers.

    Memory may fall by less than is shown, a tenth of a MiB: the check of each rebuilt stream weighs a byte.
    """
    points = [row for row in rows if row.keep_curve]
    whole = [row for row in points if row.times and row.memory]
    if len(whole) < 2:
        return "Trade-off curve over keep: fewer than two points were measured."
    times, peaks = [row.times.median for row in whole], [row.memory["peak"] / MIB for row in whole]
    numbers = "; ".join(f"{row.label}: {t:.1f} ms, {p:.1f} MiB" for row, t, p in zip(whole, times, peaks, strict=True))
    quicker, larger = falls(times), rises(peaks, slack=0.1)
    time = "never rises" if quicker else "rises somewhere"
    memory = "never falls" if larger else "falls somewhere"
    missing = f" Not measured: {', '.join(row.label for row in points if row not in whole)}." if whole != points else ""
    verdict = "monotone in both axes" if quicker and larger else "NOT monotone in both axes"
    return (
        f"Trade-off curve over keep, {len(whole)} points: {verdict} (time {time}, memory {memory}). {numbers}.{missing}"
    )
