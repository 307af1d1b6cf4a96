"""The runs of one experiment as numbers: variants, the result they are compared by, mean and deviation over seeds."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from bdia.results.record import STATUSES, Metric, RunRecord
from bdia.results.variants import Settings, differing_settings, label, stack_class, task_class
from bdia.reversible.stacks.registry import BY_CLASS, STANDARD

NONE = "\N{EN DASH}"  # what a table shows where there is no number


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (ddof = 1; NaN where n = 1) of n runs."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        finite = all(math.isfinite(value) for value in values)
        std = statistics.stdev(values) if finite and len(values) > 1 else math.nan
        return cls(statistics.fmean(values), std, len(values))

    def deviation(self, digits: int) -> str:
        """Return the standard deviation as text, `NONE` where n = 1."""
        return NONE if math.isnan(self.std) else f"{self.std:.{digits}f}"

    def text(self, digits: int = 2) -> str:
        """Return "mean ± std (n=...)"."""
        return f"{self.short(digits)} (n={self.n})"

    def short(self, digits: int = 2) -> str:
        """Return "mean ± std"."""
        return f"{self.mean:.{digits}f} ± {self.deviation(digits)}"


@dataclass(frozen=True)
class Result:
    """What the runs of a task are compared by.

    Args:
        name: the metric, a key of `UNITS`.
        text: its name and unit for a reader.
        higher: whether more is better.
        task: class of the LightningModule.
        at_best: the result is the value at the best validation epoch, not the last one.
        curves: the metrics drawn over the optimizer steps.
        figure: the paper's figure with the same curves; "" where it has none.
    """

    name: str
    text: str
    higher: bool
    task: str
    at_best: bool
    curves: tuple[str, ...]
    figure: str


ACCURACY = Result("accuracy", "accuracy, %", True, "ImageClassification", False, ("accuracy", "loss"), "Fig. 3, ViT")
BLEU = Result("bleu", "BLEU", True, "Translation", False, ("loss",), "Fig. 4, translation")
PROMPTS = Result("bleu", "BLEU", True, "DataToText", False, ("loss",), "")
PERPLEXITY = Result("perplexity", "perplexity", False, "LanguageModeling", True, ("loss",), "Fig. 5, GPT-2")
RESULTS = (BLEU, PROMPTS, ACCURACY, PERPLEXITY)  # the order matters: translation also has a perplexity


def result_of(records: Sequence[RunRecord]) -> Result:
    """Return the result of the records' task. For an unknown task: the first of `RESULTS` that the records hold."""
    tasks = {task_class(record.config) for record in records}
    held = {row.name for record in records for row in record.metrics}
    return next(
        (result for result in RESULTS if tasks == {result.task}),
        next((result for result in RESULTS if result.name in held), ACCURACY),
    )


@dataclass(frozen=True)
class Variant:
    """The runs of one experiment whose settings differ in the seed only.

    Args:
        settings: the (key, value) pairs in which this variant differs from the others.
        runs: the newest ok record of each seed, ordered by seed. All numbers are computed from these.
        older: ok records of a seed that has a newer ok record.
        broken: failed, out-of-memory and interrupted records.
    """

    label: str
    settings: Settings
    runs: list[RunRecord]
    older: list[RunRecord]
    broken: list[RunRecord]

    @property
    def example(self) -> RunRecord:
        """One record of the variant; its config has the variant's settings."""
        return [*self.runs, *self.broken][0]

    @property
    def stack(self) -> str:
        """Class name of the stack."""
        return stack_class(self.example.config)

    @property
    def setting_beside_stack(self) -> Settings:
        """The settings outside the stack; a baseline to compare with has the same."""
        return tuple(pair for pair in self.settings if not pair[0].startswith("stack."))

    @property
    def status(self) -> str:
        """How the runs ended, e.g. "3 ok, 1 oom"."""
        counts = Counter(record.status for record in [*self.runs, *self.broken])
        return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])

    def spread(self, name: str, split: str | None = None) -> Spread | None:
        """Return the spread of a metric's final value over the runs that have it, or None where none has.

        Without a split it is time or memory, and of the runs on the device that most of them name: a mean over several
        devices would be of none.
        """
        names = Counter(record.device["name"] for record in self.runs)
        device = max(names, key=names.__getitem__, default=None)

        def counted(record: RunRecord) -> float | None:
            return record.final(name, split) if split is not None or record.device["name"] == device else None

        return self.spread_of(counted)

    def spread_of(self, measure: Callable[[RunRecord], float | None]) -> Spread | None:
        """Return the spread of any number taken from each run, over the runs that have it; None where none has."""
        values = self.values(measure)
        return Spread.of([*values.values()]) if values else None

    def values(self, measure: Callable[[RunRecord], float | None]) -> dict[int, float]:
        """Return any number taken from each run, by seed, of the runs that have it."""
        return {record.seed: value for record in self.runs if (value := measure(record)) is not None}

    def curve(self, name: str, split: str | None = None) -> list[tuple[int, Spread]]:
        """Return (step, spread) for the steps that are in the curves of all runs that have this curve."""
        curves = [{row.step: row.value for row in record.curve(name, split)} for record in self.runs]
        curves = [curve for curve in curves if curve]
        shared = sorted(step for step in set.intersection(*map(set, curves)) if step is not None) if curves else []
        return [(step, Spread.of([curve[step] for curve in curves])) for step in shared]


@dataclass(frozen=True)
class Experiment:
    """All records of one experiment, by variant."""

    name: str
    records: list[RunRecord]
    variants: list[Variant]

    @property
    def result(self) -> Result:
        """The metric by which the runs are compared."""
        return result_of(self.records)

    @property
    def fine_tunes(self) -> bool:
        """Whether the runs start from trained weights; the paper has no figures for such runs."""
        return any(record.config.get("weights") for record in self.records)

    @property
    def result_split(self) -> str:
        """The split of the result: "val" if no run was tested or the result is that of the best epoch, else "test"."""
        tested = any(variant.spread(self.result.name, "test") for variant in self.variants)
        return "test" if tested and not self.result.at_best else "val"

    def outcome(self, variant: Variant) -> Spread | None:
        """Return the spread of the result over the variant's runs."""
        result = self.result
        if not result.at_best:
            return variant.spread(result.name, self.result_split)
        return variant.spread_of(lambda record: value_of(record.best(result.name, self.result_split, result.higher)))

    def baseline(self, variant: Variant) -> Variant | None:
        """Return the standard stack's variant with the same settings outside the stack; None if it has no ok run."""
        standard = [other for other in self.variants if other.stack == STANDARD.class_name and other.runs]
        same = [other for other in standard if other.setting_beside_stack == variant.setting_beside_stack]
        return same[0] if same else None


def value_of(row: Metric | None) -> float | None:
    """Return the row's value, or None for no row."""
    return row.value if row else None


def gather(records: Sequence[RunRecord]) -> list[Experiment]:
    """Return the experiments ordered by name; their variants in the registry's order of stacks, then by settings."""
    ordered = sorted(records, key=lambda record: (record.experiment, record.run_id))
    return [_experiment(name, list(members)) for name, members in groupby(ordered, lambda record: record.experiment)]


def _experiment(name: str, records: list[RunRecord]) -> Experiment:
    members: dict[Settings, list[RunRecord]] = {}
    for record, settings in zip(records, differing_settings(records), strict=True):
        members.setdefault(settings, []).append(record)
    variants = [_variant(key, runs) for key, runs in members.items()]
    return Experiment(name, records, sorted(variants, key=_position))


def _variant(settings: Settings, records: list[RunRecord]) -> Variant:
    ok = [record for record in records if record.status == "ok"]
    newest = {record.seed: record for record in sorted(ok, key=lambda record: (record.started_utc, record.run_id))}
    runs = [newest[seed] for seed in sorted(newest)]
    used = {record.run_id for record in runs}
    older = [record for record in ok if record.run_id not in used]
    seen = {record.seed for record in ok}  # a try that was cut off is no row once its run has ended well
    broken = [r for r in records if r.status != "ok" and not (r.status == "interrupted" and r.seed in seen)]
    return Variant(label(records[0], settings), settings, runs, older, broken)


def _position(variant: Variant) -> tuple[int, list[tuple[str, float, str]]]:
    order = [*BY_CLASS]
    place = order.index(variant.stack) if variant.stack in order else len(order)
    return place, [(key, *_sort_value(value)) for key, value in variant.settings]


def _sort_value(value: object) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (math.inf, str(value))
