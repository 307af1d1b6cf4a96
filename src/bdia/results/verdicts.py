"""Say whether the paper's claims hold in our runs, one line per comparison; a claim that does not hold is said too.

Images: the order of the stacks in Table 1. Text: what the curves of Figs. 4 and 5 show; the paper has no numbers for
them. Fine-tuning: the paper says that BDIA suits it, and has no numbers that are known here.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

from bdia.results.published import data_name, paper_row
from bdia.results.record import RunRecord
from bdia.results.statistics import Experiment, Spread, Variant, difference_text, value_of
from bdia.results.variants import Settings
from bdia.reversible.stacks.registry import BDIA, STANDARD

Standing = tuple[Variant, Spread, float]  # a variant, our accuracy, the accuracy the paper gives it


def verdicts(experiment: Experiment) -> list[str]:
    """Return the comparisons with the paper's claims on the runs' task; [] if nothing can be compared."""
    if experiment.name.endswith("_smoke"):
        return ["A smoke run: too short to say anything on the paper's claims."]
    if experiment.fine_tunes:
        return fine_tuning_lines(experiment)
    by_result = {"bleu": translation_claims, "perplexity": overfitting_claims}
    return by_result.get(experiment.result.name, image_verdicts)(experiment)


def image_verdicts(experiment: Experiment) -> list[str]:
    """Return one line on the paper's order of stacks, then one for each two neighbours in it.

    Where the paper has no numbers for these runs, its claim alone is tested: BDIA is better than the standard stack.
    """
    lines: list[str] = []
    for standings in _by_setting(experiment).values():
        ranked = sorted(standings, key=lambda standing: -standing[2])
        if len({wanted for _, _, wanted in ranked}) > 1:
            lines += [_order_line(ranked), *(_difference_line(*pair) for pair in pairwise(ranked))]
    return lines or _claim_lines(experiment)


def _by_setting(experiment: Experiment) -> dict[Settings, list[Standing]]:
    groups: dict[Settings, list[Standing]] = {}
    for variant in experiment.variants:
        ours, paper = experiment.outcome(variant), paper_row(variant.example.config)
        if ours and paper:
            groups.setdefault(variant.setting_beside_stack, []).append((variant, ours, paper.accuracy))
    return groups


def _order_line(ranked: list[Standing]) -> str:
    wanted = " > ".join(f"{variant.label} {paper:.2f}" for variant, _, paper in ranked)
    seen = ", ".join(f"{variant.label} {ours.text()}" for variant, ours, _ in ranked)
    pairs = [(a, b) for a, b in combinations(ranked, 2) if a[2] > b[2]]
    holds = all(a[1].mean > b[1].mean for a, b in pairs)
    return f"Paper's order {wanted}: here {seen}: {'holds in the means' if holds else 'does not hold'}."


def _difference_line(first: Standing, second: Standing) -> str:
    names = f"{first[0].label} minus {second[0].label}"
    return f"{names}: {difference_text(first[1], second[1])}; paper {first[2] - second[2]:+.2f}."


def _claim_lines(experiment: Experiment) -> list[str]:
    """Where the paper has no figures for these runs, test its claim: BDIA above the standard stack."""
    lines = []
    for variant in experiment.variants:
        baseline = experiment.baseline(variant)
        ours, theirs = experiment.outcome(variant), baseline and experiment.outcome(baseline)
        if variant.stack == BDIA.class_name and baseline and ours and theirs:
            seen = f"{variant.label} {ours.text()}, {baseline.label} {theirs.text()}"
            outcome = "holds in the means" if ours.mean > theirs.mean else "does not hold"
            data = data_name(baseline.example.config)
            claim = f"Paper's claim BDIA > standard (it has no figures for these runs on {data})"
            lines.append(f"{claim}: here {seen}: {outcome}; the difference is {difference_text(ours, theirs)}.")
    return lines


# --- text models and fine-tuning ---

# A setting whose name contains one of these words regularises.
REGULARISERS = ("dropout", "drop_path", "weight_decay", "smoothing")
WHEN = {"val": " (there after about 200 epochs)", "train": ""}


def translation_claims(experiment: Experiment) -> list[str]:
    """Test both halves of Fig. 4's claim for each BDIA variant and its baseline; add the difference in BLEU."""
    lines = []
    for variant, baseline in _pairs(experiment):
        for split, side, sign in (("val", "below", -1), ("train", "above", 1)):
            ours, theirs = variant.spread("loss", split), baseline.spread("loss", split)
            if ours and theirs:
                claim = f"Paper's claim (Fig. 4, no numbers): BDIA's {split} loss ends {side} standard's{WHEN[split]}"
                outcome = _outcome(sign * ours.mean > sign * theirs.mean)
                seen = f"{variant.label} {ours.text(3)}, {baseline.label} {theirs.text(3)}"
                lines.append(
                    f"{claim}: here, {_length(variant)}, {seen}: {outcome}; the difference is {_nat(ours, theirs)}."
                )
        ours, theirs = experiment.outcome(variant), experiment.outcome(baseline)
        if ours and theirs:
            names = f"{experiment.result_split} BLEU (the paper has none), {variant.label} minus {baseline.label}"
            lines.append(f"{names}: {difference_text(ours, theirs)} (n={ours.n} and {theirs.n}).")
    return lines


def fine_tuning_lines(experiment: Experiment) -> list[str]:
    """Return the difference in the result and in peak memory between each BDIA variant and its baseline."""
    result, lines = experiment.result, []
    for variant, baseline in _pairs(experiment):
        ours, theirs = experiment.outcome(variant), experiment.outcome(baseline)
        if ours and theirs:
            seen = f"{variant.label} {ours.text()}, {baseline.label} {theirs.text()}"
            line = (
                f"Fine-tuned from the same weights, {_length(variant)}, {experiment.result_split} {result.text}: {seen}"
            )
            line += f"; the difference is {difference_text(ours, theirs)}"
            memory = [each.spread("peak_allocated") for each in (variant, baseline)]
            if all(memory):
                line += f". Peak memory {memory[0].mean / memory[1].mean:.2f} of {baseline.label}'s"
            lines.append(f"{line}. The paper has no figures for these runs.")
    return lines


def overfitting_claims(experiment: Experiment) -> list[str]:
    """Test Fig. 5's claim for each BDIA variant: against its baseline, then against more regularised baselines."""
    claim = "Paper's claim (Fig. 5, no numbers): BDIA strongly delays over-fitting"
    lines = [_overfitting_line(claim, *pair) for pair in _pairs(experiment)]
    claim = "Not in the paper: BDIA over-fits less than standard with more regularisation"
    lines += [_overfitting_line(claim, *pair) for pair in _rivals(experiment)]
    return [line for line in lines if line]


def _pairs(experiment: Experiment) -> Iterator[tuple[Variant, Variant]]:
    """Yield each BDIA variant with the standard stack's variant of the same settings outside the stack."""
    for variant in experiment.variants:
        baseline = experiment.baseline(variant)
        if variant.stack == BDIA.class_name and variant.runs and baseline:
            yield variant, baseline


def _rivals(experiment: Experiment) -> Iterator[tuple[Variant, Variant]]:
    """Yield each BDIA variant with every standard variant that differs from it only in being regularised more."""
    for variant in experiment.variants:
        for other in experiment.variants:
            if variant.stack == BDIA.class_name and other.stack == STANDARD.class_name and variant.runs and other.runs:
                ours, theirs = (dict(one.setting_beside_stack) for one in (variant, other))
                keys = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
                if keys and all(_regularises_more(key, theirs.get(key), ours.get(key)) for key in keys):
                    yield variant, other


def _regularises_more(key: str, theirs: Any, ours: Any) -> bool:
    known = any(word in key.rpartition(".")[2] for word in REGULARISERS)
    return known and all(isinstance(value, int | float) for value in (theirs, ours)) and theirs > ours


def _overfitting_line(opening: str, variant: Variant, other: Variant) -> str | None:
    found = [(ours, theirs) for measure in MEASURES.values() if (ours := variant.spread_of(measure))
             and (theirs := other.spread_of(measure))]  # fmt: skip
    if len(found) < len(MEASURES):
        return None
    seen = "; ".join(
        f"{name} {ours.text(3)} against {theirs.text(3)}, difference {_nat(ours, theirs)}"
        for name, (ours, theirs) in zip(MEASURES, found, strict=True)
    )
    (final, rise, _) = found
    outcome = _outcome(final[0].mean < final[1].mean and rise[0].mean < rise[1].mean)
    if rise[0].mean == rise[1].mean == 0:
        outcome = "not tested, neither over-fits in this time"
    names = f"{variant.label} against {other.label}, {_length(variant)}"
    return f"{opening}: {outcome}. {names}: {seen}."


def _best(record: RunRecord) -> float | None:
    return value_of(record.best("loss", "val", higher=False))


def _final(record: RunRecord) -> float | None:
    return record.final("loss", "val")


def _rise(record: RunRecord) -> float | None:
    best, final = _best(record), _final(record)
    return None if best is None or final is None else final - best


MEASURES = {"final val loss": _final, "its rise from the best": _rise, "the best": _best}


def _outcome(holds: bool) -> str:
    return "holds in the means" if holds else "does not hold"


def _nat(ours: Spread, theirs: Spread) -> str:
    return difference_text(ours, theirs, "nat", 3)


def _length(variant: Variant) -> str:
    """Return the length of the training: "after 40 epochs", or "after 2000 steps" if steps are its limit."""
    trainer: dict[str, Any] = variant.example.config.get("trainer") or {}
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if isinstance(epochs, int) and epochs > 0 and steps in (None, -1):
        return f"after {epochs} epochs"
    rows = variant.runs[0].curve("loss", "val") or variant.runs[0].curve("loss", "train")
    return f"after {rows[-1].step} steps" if rows else "after training"
