"""Gather the records of one experiment into variants: mean, sample standard deviation and n over seeds."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from bdia.results.record import STATUSES, RunRecord
from bdia.results.variants import STACK_NAMES, Settings, differing_settings, label, stack_class

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

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN where n = 1."""
        return self.std / math.sqrt(self.n)

    def deviation(self, digits: int) -> str:
        """Return the standard deviation as text, `NONE` where n = 1."""
        return NONE if math.isnan(self.std) else f"{self.std:.{digits}f}"

    def text(self, digits: int = 2) -> str:
        """Return "mean ± std (n=...)"."""
        return f"{self.mean:.{digits}f} ± {self.deviation(digits)} (n={self.n})"


@dataclass(frozen=True)
class Variant:
    """The runs of one experiment that differ in nothing but the seed.

    Args:
        settings: the (key, value) pairs that set this variant apart.
        runs: the newest ok record of each seed, by seed: what the numbers are made of.
        older: ok records that a newer one of the same seed replaces.
        broken: failed, out-of-memory and interrupted records.
    """

    label: str
    settings: Settings
    runs: list[RunRecord]
    older: list[RunRecord]
    broken: list[RunRecord]

    @property
    def example(self) -> RunRecord:
        """Any record of the variant: they share every entry that matters."""
        return [*self.runs, *self.broken][0]

    @property
    def stack(self) -> str:
        """Class name of the stack."""
        return stack_class(self.example.config)

    @property
    def setting_beside_stack(self) -> Settings:
        """What the variant shares with the baseline it is to be compared with."""
        return tuple(pair for pair in self.settings if not pair[0].startswith("stack."))

    @property
    def status(self) -> str:
        """How the runs ended, e.g. "3 ok, 1 oom"."""
        counts = Counter(record.status for record in [*self.runs, *self.broken])
        return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])

    def spread(self, name: str, split: str | None = None) -> Spread | None:
        """Return the spread of a metric's final value over the runs that have it, or None where none has."""
        values = [value for record in self.runs if (value := record.final(name, split)) is not None]
        return Spread.of(values) if values else None

    def curve(self, name: str, split: str | None = None) -> list[tuple[int, Spread]]:
        """Return (step, spread) at every step that all runs with this curve measured."""
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
    def result_split(self) -> str:
        """The split whose accuracy is the result: "test", or "val" where no run was tested."""
        return "test" if any(variant.spread("accuracy", "test") for variant in self.variants) else "val"

    def baseline(self, variant: Variant) -> Variant | None:
        """Return the standard stack's variant with the same setting, or None where there is none with an ok run."""
        standard = [other for other in self.variants if other.stack == "StandardStack" and other.runs]
        same = [other for other in standard if other.setting_beside_stack == variant.setting_beside_stack]
        return same[0] if same else None


def gather(records: Sequence[RunRecord]) -> list[Experiment]:
    """Return the experiments by name, the variants of each in the order of `STACK_NAMES`, then by setting."""
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
    broken = [record for record in records if record.status != "ok"]
    return Variant(label(records[0], settings), settings, runs, older, broken)


def _position(variant: Variant) -> tuple[int, list[tuple[str, float, str]]]:
    order = [*STACK_NAMES]
    place = order.index(variant.stack) if variant.stack in order else len(order)
    return place, [(key, *_sort_value(value)) for key, value in variant.settings]


def _sort_value(value: object) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (math.inf, str(value))
