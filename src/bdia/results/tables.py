"""Tables of one experiment as plain data, and the same tables as Markdown and as aligned text."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bdia.results.aggregate import NONE, Experiment, Spread, Variant, gather
from bdia.results.paper import paper_row, published, setting_differences
from bdia.results.record import SPLITS, UNITS, RunRecord
from bdia.results.verdict import verdicts


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def summary_table(experiment: Experiment) -> Table:
    """Return one row per variant: accuracy, the paper's, the difference, peak memory, step time, status."""
    split = experiment.result_split
    columns = ["stack", f"{split} accuracy % (mean ± std, n)", "paper", "Δ", "peak memory MiB (ratio to standard)"]
    columns += ["step ms (ratio to standard)", "status"]
    return Table(columns, [_summary_row(experiment, variant, split) for variant in experiment.variants])


def _summary_row(experiment: Experiment, variant: Variant, split: str) -> list[str]:
    ours, paper = variant.spread("accuracy", split), paper_row(variant.example.config)
    return [
        variant.label,
        ours.text() if ours else NONE,
        f"{paper.accuracy:.2f}" if paper else NONE,
        f"{ours.mean - paper.accuracy:+.2f}" if ours and paper else NONE,
        _with_ratio(experiment, variant, "peak_allocated"),
        _with_ratio(experiment, variant, "step_time"),
        variant.status,
    ]


def _with_ratio(experiment: Experiment, variant: Variant, name: str) -> str:
    ours, baseline = variant.spread(name), experiment.baseline(variant)
    standard = baseline and baseline.spread(name)
    if not ours:
        return NONE
    # A spread of more than 1 % is a warning: the machine was not quiet, or the runs were not alike.
    text = f"{ours.mean:.1f} ± {ours.std:.1f}" if ours.std > 0.01 * ours.mean else f"{ours.mean:.1f}"
    return f"{text} ({ours.mean / standard.mean:.2f}x)" if standard else text


def details_table(experiment: Experiment) -> Table:
    """Return one row per measured quantity (final values, mean ± std) and per published figure, variants as columns."""
    rows = []
    for name, unit in UNITS.items():
        for split in SPLITS:
            spreads = [variant.spread(name, split) for variant in experiment.variants]
            if any(spreads):
                head = " ".join(part for part in (split, name.replace("_", " ")) if part)
                rows.append([head if unit in ("1", "count") else f"{head}, {unit}", *map(_cell, spreads)])
    return Table(
        ["final value", *(variant.label for variant in experiment.variants)], rows + _published_rows(experiment)
    )


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return NONE
    size = abs(spread.mean)
    if not math.isfinite(size):
        return str(spread.mean)
    if 0 < size < 0.01:
        return f"{spread.mean:.2e}"
    digits = max(0, 4 - len(str(int(size))))  # four figures in all
    spread_known = spread.std > 0  # False for NaN, too: a single run has none
    return f"{spread.mean:,.{digits}f}" + (f" ± {spread.deviation(digits)}" if spread_known else "")


def _published_rows(experiment: Experiment) -> list[list[str]]:
    by_variant = [{row.source: row for row in published(variant.example.config)} for variant in experiment.variants]
    rows = []
    for source in dict.fromkeys(source for sources in by_variant for source in sources):
        found = [sources.get(source) for sources in by_variant]
        rows.append([f"{source}: accuracy, %", *(f"{row.accuracy:.2f}" if row else NONE for row in found)])
        if any(row and row.memory for row in found):
            rows.append([f"{source}: peak memory", *((row and row.memory) or NONE for row in found)])
    return rows


def notes(experiment: Experiment) -> list[str]:
    """Return what a reader must know beside the table: the setting, older runs left out, runs that broke."""
    lines = []
    compared = [variant for variant in experiment.variants if paper_row(variant.example.config)]
    for text in dict.fromkeys("; ".join(setting_differences(variant.example.config)) for variant in compared):
        if text:
            lines.append(f"Not the paper's setting: {text}.")
    for variant in experiment.variants:
        if variant.older:
            lines.append(f"{variant.label}: {len(variant.older)} older ok run(s) of the same seed left out.")
        for record in variant.broken:
            reason = (record.error or "no reason recorded").strip().splitlines()[-1]
            lines.append(f"{variant.label}, seed {record.seed}: {record.status}: {reason}")
    return lines


def provenance(experiment: Experiment) -> list[str]:
    """Return the devices and the commits behind the records, with the number of runs of each."""
    devices = Counter(_device(record) for record in experiment.records)
    commits = Counter(
        f"commit {record.git['sha'][:12]} ({'dirty' if record.git['dirty'] else 'clean'})"
        for record in experiment.records
    )
    return [f"{text}: {count} run(s)" for counts in (devices, commits) for text, count in sorted(counts.items())]


def _device(record: RunRecord) -> str:
    device = dict(record.device)
    name, count = device.pop("name"), device.pop("count", 1)
    versions = ", ".join(f"{key} {value}" for key, value in device.items() if value is not None)
    return ", ".join(part for part in (f"{count} x {name}", versions, record.precision) if part)


def table_text(records: Sequence[RunRecord]) -> str:
    """Return the tables, verdicts and notes of all experiments in the records, aligned for a terminal."""
    parts = []
    for experiment in gather(records):
        lines = [experiment.name, "", plain(summary_table(experiment)), ""]
        parts.append("\n".join([*lines, *verdicts(experiment), *notes(experiment), *provenance(experiment)]))
    return "\n\n\n".join(parts)


def markdown(table: Table) -> str:
    """Return the table in Markdown; a cell cannot break out of its column or carry HTML."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(markdown_text(cell) for cell in line) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """Return the text with the characters escaped that Markdown would read as a column, HTML or a new line."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(escaped.split())


def plain(table: Table) -> str:
    """Return the table as aligned text, the first column to the left, the others to the right."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    texts = []
    for line in lines:
        padded = [" " * (width - len(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = [line[0] + padded[0], *(gap + cell for gap, cell in zip(padded[1:], line[1:], strict=True))]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])
