"""Tables as plain data: the summary and the details of an experiment; any table as Markdown and as aligned text."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from bdia.results.published import paper_row, published
from bdia.results.record import SPLITS, UNITS, Metric, RunRecord
from bdia.results.statistics import NONE, Experiment, Spread, Variant, value_of

TITLES = {"bleu": "BLEU", "chrf": "chrF"}  # titles of metrics that differ from their names


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def without_empty(table: Table) -> Table:
    """Return the table without the columns in which no row has a value."""
    shown = [at for at in range(len(table.columns)) if at == 0 or any(row[at] != NONE for row in table.rows)]
    return Table([table.columns[at] for at in shown], [[row[at] for at in shown] for row in table.rows])


def markdown(table: Table) -> str:
    """Return the table in Markdown, with the cells' special characters escaped."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(markdown_text(cell) for cell in line) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """Return the text on one line, with the characters escaped that Markdown reads as a column or HTML."""
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


# --- the summary: one row per variant ---

Column = tuple[str, Callable[[Variant], str]]  # head, and the cell of a variant's row


def summary_table(experiment: Experiment) -> Table:
    """Return one row per variant: the result (and the paper's, where it has numbers), memory, step time, status."""
    make = {"bleu": _translation_columns, "perplexity": _language_columns}.get(experiment.result.name, _image_columns)
    columns: list[Column] = [("stack", lambda variant: variant.label), *make(experiment)]
    for head, name in (("peak memory MiB", "peak_allocated"), ("step ms", "step_time")):
        columns.append((f"{head} (ratio to standard)", _with_ratio(experiment, name)))
    columns.append(("status", lambda variant: variant.status))
    return Table(
        [head for head, _ in columns], [[cell(variant) for _, cell in columns] for variant in experiment.variants]
    )


def _image_columns(experiment: Experiment) -> list[Column]:
    def published(variant: Variant) -> str:
        paper = paper_row(variant.example.config)
        return f"{paper.accuracy:.2f}" if paper else NONE

    def difference(variant: Variant) -> str:
        ours, paper = experiment.outcome(variant), paper_row(variant.example.config)
        return f"{ours.mean - paper.accuracy:+.2f}" if ours and paper else NONE

    head = f"{experiment.result_split} accuracy % (mean ± std, n)"
    columns: list[Column] = [
        (head, lambda variant: _text(experiment.outcome(variant))),
        ("paper", published),
        ("Δ", difference),
        ("val accuracy %, best → end", lambda variant: _best_to_end(variant, "accuracy", 2, higher=True)),
        ("val loss nat, least → end", lambda variant: _best_to_end(variant, "loss", 3, higher=False)),
        ("train loss nat, end", _train_loss),
    ]
    return columns[:3] + [column for column in columns[3:] if _has_numbers(experiment, column)]


def _best_to_end(variant: Variant, name: str, digits: int, higher: bool) -> str:
    """Return the best validation value and the last one, means over the seeds; they differ where a curve over-fits."""
    best = variant.spread_of(lambda record: value_of(record.best(name, "val", higher)))
    end = variant.spread(name, "val")
    return f"{best.mean:.{digits}f} → {end.mean:.{digits}f}" if best and end else NONE


def _train_loss(variant: Variant) -> str:
    """Return the training loss at the end, beside a validation loss: alone it says nothing."""
    end = variant.spread("loss", "train") if variant.spread("loss", "val") else None
    return f"{end.mean:.3f}" if end else NONE


def _translation_columns(experiment: Experiment) -> list[Column]:
    split = experiment.result_split
    columns: list[Column] = [
        (f"{split} BLEU (mean ± std, n)", lambda variant: _text(experiment.outcome(variant))),
        (f"{split} chrF", lambda variant: short(variant.spread("chrf", split))),
        (f"{split} exact match %", lambda variant: short(variant.spread("exact_match", split))),
        ("val loss at end, nat", lambda variant: short(variant.spread("loss", "val"), 3)),
    ]
    return columns[:1] + [column for column in columns[1:] if _has_numbers(experiment, column)]


def _language_columns(experiment: Experiment) -> list[Column]:
    columns: list[Column] = [
        ("val perplexity at best (mean ± std, n)", lambda variant: _text(experiment.outcome(variant))),
        ("step of best", _step_of_best),
        ("val perplexity at end", lambda variant: short(variant.spread("perplexity", "val"))),
        ("test perplexity at end", lambda variant: short(variant.spread("perplexity", "test"))),
        ("unigram perplexity", _unigram_cell),
    ]
    return columns[:1] + [column for column in columns[1:] if _has_numbers(experiment, column)]


def _has_numbers(experiment: Experiment, column: Column) -> bool:
    return any(column[1](variant) != NONE for variant in experiment.variants)


def _text(spread: Spread | None) -> str:
    return spread.text() if spread else NONE


def short(spread: Spread | None, digits: int = 2) -> str:
    """Return "mean ± std", `NONE` where there is no number."""
    return spread.short(digits) if spread else NONE


def _unigram_cell(variant: Variant) -> str:
    found = variant.spread("unigram_perplexity")
    return f"{found.mean:,.1f}" if found else NONE  # it depends on the data alone, so it has no deviation over seeds


def _step_of_best(variant: Variant) -> str:
    """Return the optimizer step with the best validation perplexity, e.g. "400 ± 50 of 2,000"."""

    def best(record: RunRecord) -> Metric | None:
        return record.best("perplexity", "val", higher=False)

    def last(record: RunRecord) -> Metric | None:
        return next(reversed(record.curve("perplexity", "val")), None)

    steps, ends = (variant.spread_of(_step(row)) for row in (best, last))
    if not steps or not ends:
        return NONE
    spread = f" ± {steps.std:,.0f}" if steps.std > 0 else ""
    return f"{steps.mean:,.0f}{spread} of {ends.mean:,.0f}"


def _step(row: Callable[[RunRecord], Metric | None]) -> Callable[[RunRecord], float | None]:
    return lambda record: found.step if (found := row(record)) else None


def _with_ratio(experiment: Experiment, name: str) -> Callable[[Variant], str]:
    def cell(variant: Variant) -> str:
        ours, baseline = variant.spread(name), experiment.baseline(variant)
        standard = baseline and baseline.spread(name)
        if not ours:
            return NONE
        # A deviation above 1 % is shown: other programs ran on the machine, or the runs were not alike.
        text = f"{ours.mean:.1f} ± {ours.std:.1f}" if ours.std > 0.01 * ours.mean else f"{ours.mean:.1f}"
        return f"{text} ({ours.mean / standard.mean:.2f}x)" if standard else text

    return cell


# --- the details: one row per measured quantity ---


def details_table(experiment: Experiment) -> Table:
    """Return a row per measured quantity (final values, mean ± std) and published figure, a column per variant."""
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
