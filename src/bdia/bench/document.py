"""A bench as a document: where it ran, its tables, its verdict on the trade-off curve."""

from collections.abc import Callable, Sequence

from bdia.bench.record import Bench, Row
from bdia.bench.table import MIB, fit_table, memory_table, overhead_table, time_table
from bdia.bench.times import falls, rises
from bdia.results.tables import Table, markdown, plain


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


def curve_verdict(rows: Sequence[Row]) -> str:
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
