"""The summary of one experiment: one row per variant, with the columns that its task's result asks for."""

from collections.abc import Callable

from bdia.results.aggregate import Experiment, Variant
from bdia.results.layout import Table
from bdia.results.paper import paper_row
from bdia.results.record import Metric, RunRecord
from bdia.results.spread import NONE, Spread

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
    return [(head, lambda variant: _text(experiment.outcome(variant))), ("paper", published), ("Δ", difference)]


def _translation_columns(experiment: Experiment) -> list[Column]:
    split = experiment.result_split
    columns: list[Column] = [
        (f"{split} BLEU (mean ± std, n)", lambda variant: _text(experiment.outcome(variant))),
        (f"{split} chrF", lambda variant: _short(variant.spread("chrf", split))),
        (f"{split} exact match %", lambda variant: _short(variant.spread("exact_match", split))),
        ("val loss at end, nat", lambda variant: _short(variant.spread("loss", "val"), 3)),
    ]
    return columns[:1] + [column for column in columns[1:] if _has_numbers(experiment, column)]


def _language_columns(experiment: Experiment) -> list[Column]:
    columns: list[Column] = [
        ("val perplexity at best (mean ± std, n)", lambda variant: _text(experiment.outcome(variant))),
        ("step of best", _step_of_best),
        ("val perplexity at end", lambda variant: _short(variant.spread("perplexity", "val"))),
        ("test perplexity at end", lambda variant: _short(variant.spread("perplexity", "test"))),
        ("unigram perplexity", _unigram_cell),
    ]
    return columns[:1] + [column for column in columns[1:] if _has_numbers(experiment, column)]


def _has_numbers(experiment: Experiment, column: Column) -> bool:
    return any(column[1](variant) != NONE for variant in experiment.variants)


def _text(spread: Spread | None) -> str:
    return spread.text() if spread else NONE


def _short(spread: Spread | None, digits: int = 2) -> str:
    return spread.short(digits) if spread else NONE


def _unigram_cell(variant: Variant) -> str:
    found = variant.spread("unigram_perplexity")
    return f"{found.mean:,.1f}" if found else NONE  # of the data: seeds do not change it


def _step_of_best(variant: Variant) -> str:
    """Return e.g. "400 ± 50 of 2,000" optimizer steps; the end where the model does not over-fit."""

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
        # A spread of more than 1 % is a warning: the machine was not quiet, or the runs were not alike.
        text = f"{ours.mean:.1f} ± {ours.std:.1f}" if ours.std > 0.01 * ours.mean else f"{ours.mean:.1f}"
        return f"{text} ({ours.mean / standard.mean:.2f}x)" if standard else text

    return cell
