"""Judge the paper's claims by our runs, one rule for all (`RULE`); compare BDIA with standard elsewhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bdia.results.claims import CLAIMS, PEAK, RISE, VAL_LOSS, Claim, Measure
from bdia.results.paired import Paired, holm, pairs_needed, power
from bdia.results.published import form_of
from bdia.results.record import RunRecord
from bdia.results.statistics import Experiment, Result, Variant, value_of
from bdia.results.variants import UNSET, Settings
from bdia.reversible.stacks.registry import BDIA, STANDARD

REPRODUCED, CONTRADICTED, NOT_RESOLVED, NOT_RUN = "reproduced", "contradicted", "not resolved", "not run"
LEVEL = 0.05  # of the corrected p
MARGIN = 0.05  # of the larger number, for numbers that repeat exactly
RULE = (
    "Runs are paired by seed. The p values of the paired t tests of a study are corrected together (Holm), over all "
    "its claims, also those without runs.",
    f"reproduced: the corrected p is at most {LEVEL:g} and the difference has the claimed sign.",
    f"contradicted: the corrected p is at most {LEVEL:g} and the difference has the other sign.",
    "not resolved: the corrected p is larger, or there is a single pair, or a value is not finite.",
    "not run: no experiment has a pair of runs.",
    f"Peak memory repeats exactly and needs no test: a difference of more than {MARGIN:.0%} decides.",
    "Of several experiments on a claim the largest scale with two pairs of runs counts; its setting is told below.",
)
# A setting whose name contains one of these words regularises.
REGULARISERS = ("dropout", "drop_path", "weight_decay", "smoothing")


@dataclass(frozen=True)
class Verdict:
    """A claim, judged by one experiment.

    Args:
        experiment, ours, theirs: None where no experiment has a pair.
        corrected_p: after Holm's correction over the study; NaN where nothing was tested.
        tests: how many p values were corrected together.
    """

    claim: Claim
    outcome: str = NOT_RUN
    experiment: Experiment | None = None
    ours: Variant | None = None
    theirs: Variant | None = None
    found: Paired | None = None
    corrected_p: float = math.nan
    tests: int = 1

    @property
    def runs(self) -> list[RunRecord]:
        """The records of all pairs."""
        if self.ours is None or self.theirs is None:
            return []
        seeds = {run.seed for run in self.ours.runs} & {run.seed for run in self.theirs.runs}
        return [run for variant in (self.ours, self.theirs) for run in variant.runs if run.seed in seeds]


def verdicts(experiments: Sequence[Experiment]) -> list[Verdict]:
    """Return every claim once, in the paper's order, judged by the largest experiment that has two pairs, else one."""
    by_name = {experiment.name: experiment for experiment in experiments}
    judged = {name: judge(experiment) for name, experiment in by_name.items()}
    found = []
    for claim in CLAIMS:
        tried = [verdict for name in claim.experiments for verdict in judged.get(name, ()) if verdict.claim == claim]
        tried.sort(key=lambda verdict: verdict.found is None or verdict.found.n < 2)  # stable: the largest scale first
        found.append(tried[0] if tried else Verdict(claim))
    return found


def judge(experiment: Experiment) -> list[Verdict]:
    """Return the verdicts of one experiment: for each of its claims, one per setting outside the stack."""
    open_verdicts = []
    for claim in CLAIMS:
        if experiment.name in claim.experiments and not experiment.fine_tunes:
            for ours, theirs in _pairs(experiment, claim):
                found = Paired.of(ours.values(claim.measure.of), theirs.values(claim.measure.of))
                if found is not None:
                    open_verdicts.append(Verdict(claim, NOT_RESOLVED, experiment, ours, theirs, found))
    closed = []
    for study in dict.fromkeys(verdict.claim.study for verdict in open_verdicts):
        members = [verdict for verdict in open_verdicts if verdict.claim.study == study]
        tested = [math.nan if v.claim.measure.repeats or v.found is None else v.found.p for v in members]
        tests = max(_tests(study), sum(not math.isnan(p) for p in tested))
        missing = [1.0] * (tests - sum(not math.isnan(p) for p in tested))  # claims that have no runs yet count too
        for verdict, corrected in zip(members, holm([*tested, *missing]), strict=False):
            judged = replace(verdict, corrected_p=corrected, tests=tests)
            closed.append(replace(judged, outcome=outcome(judged.claim, judged.found, corrected)))
    return closed


def _tests(study: str) -> int:
    """Return how many claims of a study need a test."""
    return sum(claim.study == study and not claim.measure.repeats for claim in CLAIMS)


def outcome(claim: Claim, found: Paired | None, corrected_p: float) -> str:
    """Apply the rule."""
    if found is None:
        return NOT_RUN
    if claim.measure.repeats:
        larger = max(abs(found.first.mean), abs(found.second.mean))
        decided = abs(found.mean) > MARGIN * larger
    else:
        decided = corrected_p <= LEVEL  # NaN is not
    if not decided or not math.isfinite(found.mean):
        return NOT_RESOLVED
    return REPRODUCED if found.mean * claim.sign > 0 else CONTRADICTED


def _pairs(experiment: Experiment, claim: Claim) -> Iterator[tuple[Variant, Variant]]:
    """Yield the variants of a claim's two forms that are alike in all settings outside the stack."""
    of_form: dict[tuple, list[Variant]] = {claim.ours: [], claim.theirs: []}
    for variant in experiment.variants:
        if variant.runs:
            of_form.get(form_of(variant.example.config), []).append(variant)
    theirs: dict[Settings, Variant] = {}
    for variant in of_form[claim.theirs]:
        theirs.setdefault(variant.setting_beside_stack, variant)
    for variant in of_form[claim.ours]:
        if variant.setting_beside_stack in theirs:
            yield variant, theirs[variant.setting_beside_stack]


# --- in words ---


def verdict_lines(experiment: Experiment) -> list[str]:
    """Return what one experiment says of the paper's claims, then the comparisons that the paper does not have."""
    if experiment.name.endswith("_smoke"):
        return ["A smoke run: too short to say anything on the paper's claims."]
    judged = judge(experiment)
    shown = {(id(verdict.ours), id(verdict.theirs), verdict.claim.measure.text) for verdict in judged}
    lines = [line for verdict in judged for line in (_told(verdict), _power(verdict)) if line]
    about = "Fine-tuned from the same weights" if experiment.fine_tunes else "Not in the paper"
    for ours, theirs, measures in _comparisons(experiment):
        for measure in measures:
            found = Paired.of(ours.values(measure.of), theirs.values(measure.of))
            if found is not None and (id(ours), id(theirs), measure.text) not in shown:
                lines.append(f"{about}: {difference(found, measure, ours, theirs)}.")
    return lines


def difference(
    found: Paired, measure: Measure, ours: Variant, theirs: Variant, corrected_p: float | None = None
) -> str:
    """Return a paired difference in words, with the length of the training, its interval and p."""
    digits, unit = measure.digits, measure.unit
    means = f"{found.first.mean:.{digits}f} against {found.second.mean:.{digits}f}"
    told = f"{ours.label} minus {theirs.label}, {_length(ours)}, {measure.text} {means}: "
    if not math.isfinite(found.mean):
        return f"{told}unknown, a value is not finite"
    told += f"{found.mean:+.{digits}f} {unit}"
    if measure.repeats:
        return f"{told} ({found.first.mean / found.second.mean:.2f} times)"
    if found.n == 1:
        return f"{told}, one pair of runs: no interval"
    low, high = found.interval
    told += f" (95 % interval {low:+.{digits}f} to {high:+.{digits}f}, {found.n} pairs of runs; p {p_text(found.p)}"
    if corrected_p is not None:
        told += f", {p_text(corrected_p)} after Holm"
    return f"{told}, by sign flips {p_text(found.sign_flip_p)})"


def _length(variant: Variant) -> str:
    """Return the length of the training: "after 40 epochs", or "after 2000 steps" if steps are its limit."""
    trainer: dict[str, Any] = variant.example.config.get("trainer") or {}
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if isinstance(epochs, int) and epochs > 0 and steps in (None, -1):
        return f"after {epochs} epochs"
    rows = variant.runs[0].curve("loss", "val") or variant.runs[0].curve("loss", "train")
    return f"after {rows[-1].step} steps" if rows else "after training"


def p_text(p: float) -> str:
    """Return a p value with two digits, e.g. "0.25", "0.0031", "below 0.0001"."""
    if math.isnan(p):
        return "unknown"
    return "below 0.0001" if p < 0.0001 else f"{p:.2g}"


def _told(verdict: Verdict) -> str:
    claim, found = verdict.claim, verdict.found
    if found is None or verdict.ours is None or verdict.theirs is None:
        return ""
    opening = f"{claim.place}, {claim.text} (paper: {claim.paper}): {verdict.outcome.upper()}"
    return f"{opening}. {difference(found, claim.measure, verdict.ours, verdict.theirs, verdict.corrected_p)}."


def _power(verdict: Verdict) -> str:
    """Return what the runs could have found of a difference as large as the paper's; "" where that is unknown."""
    size, found = verdict.claim.size, verdict.found
    if size is None or found is None or not found.std > 0:
        return ""
    alpha = LEVEL / verdict.tests  # Holm's first step
    chance, needed = power(size, found.std, found.n, alpha), pairs_needed(size, found.std, alpha)
    return (
        f"A difference of the paper's size ({size:+.2f} {verdict.claim.measure.unit}) would be found with probability "
        f"{chance:.2f} by {found.n} pairs with this spread; for 0.8, {needed} pairs are needed."
    )


def _comparisons(experiment: Experiment) -> Iterator[tuple[Variant, Variant, list[Measure]]]:
    """Yield BDIA's variants with their baseline, by the result and where it counts by memory; then with its rivals."""
    result = result_measure(experiment.result, experiment.result_split)
    for variant in experiment.variants:
        baseline = experiment.baseline(variant)
        if variant.stack == BDIA.class_name and variant.runs:
            if baseline is not None:
                yield variant, baseline, [result, PEAK] if experiment.fine_tunes else [result]
            for other in _rivals(experiment, variant):
                yield variant, other, [VAL_LOSS, RISE]


def result_measure(result: Result, split: str) -> Measure:
    """Return the result of an experiment's task as a measure; of perplexity, the best over the validations."""

    def best(record: RunRecord) -> float | None:
        return value_of(record.best(result.name, split, result.higher))

    unit = {"accuracy": "points", "bleu": "points"}.get(result.name, "")
    at_best = " at its best" if result.at_best else ""
    name = result.text.partition(",")[0]
    final = lambda record: record.final(result.name, split)  # noqa: E731
    return Measure(f"{split} {name}{at_best}", unit, best if result.at_best else final)


def _rivals(experiment: Experiment, variant: Variant) -> Iterator[Variant]:
    """Yield every standard variant that differs from a BDIA variant only in being regularised more."""
    for other in experiment.variants:
        if other.stack == STANDARD.class_name and other.runs:
            ours, theirs = (dict(one.setting_beside_stack) for one in (variant, other))
            keys = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
            if keys and all(_regularises_more(key, theirs.get(key), ours.get(key)) for key in keys):
                yield other


def _regularises_more(key: str, theirs: object, ours: object) -> bool:
    known = any(word in key.rpartition(".")[2] for word in REGULARISERS)
    theirs, ours = (0.0 if value == UNSET else value for value in (theirs, ours))
    return known and isinstance(theirs, int | float) and isinstance(ours, int | float) and theirs > ours
