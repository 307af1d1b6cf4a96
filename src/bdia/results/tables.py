"""All tables of one experiment as plain data, and the tables of all experiments as text for a terminal."""

import math
from collections.abc import Sequence

from bdia.results.aggregate import Experiment, gather
from bdia.results.layout import Table, markdown, plain
from bdia.results.notes import notes, provenance
from bdia.results.paper import published
from bdia.results.record import SPLITS, UNITS, RunRecord
from bdia.results.spread import NONE, Spread
from bdia.results.summary import summary_table
from bdia.results.verdict import verdicts

__all__ = ["Table", "details_table", "markdown", "plain", "summary_table", "table_text"]

TITLES = {"bleu": "BLEU", "chrf": "chrF"}  # where a metric's name is not its title


def details_table(experiment: Experiment) -> Table:
    """Return one row per measured quantity (final values, mean ± std) and per published figure, variants as columns."""
    rows = []
    for name, unit in UNITS.items():
        for split in SPLITS:
            spreads = [variant.spread(name, split) for variant in experiment.variants]
            if any(spreads):
                head = " ".join(part for part in (split, TITLES.get(name, name.replace("_", " "))) if part)
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


def table_text(records: Sequence[RunRecord]) -> str:
    """Return the tables, verdicts and notes of all experiments in the records, aligned for a terminal."""
    parts = []
    for experiment in gather(records):
        lines = [experiment.name, "", plain(summary_table(experiment)), ""]
        parts.append("\n".join([*lines, *verdicts(experiment), *notes(experiment), *provenance(experiment)]))
    return "\n\n\n".join(parts)
