"""Say in one line whether the paper's order holds in our runs, whichever way it comes out."""

from itertools import combinations, pairwise

from bdia.results.aggregate import Experiment, Variant
from bdia.results.claims import fine_tuning_lines, overfitting_claims, translation_claims
from bdia.results.paper import data_name, paper_row
from bdia.results.spread import Spread, difference_text
from bdia.results.variants import Settings

Standing = tuple[Variant, Spread, float]  # a variant, our accuracy, the accuracy the paper gives it


def verdicts(experiment: Experiment) -> list[str]:
    """Return what the runs say on what the paper says of their task; [] where nothing can be compared."""
    if experiment.name.endswith("_smoke"):
        return ["A smoke run: too short to say anything on the paper's claims."]
    if experiment.fine_tunes:
        return fine_tuning_lines(experiment)
    by_result = {"bleu": translation_claims, "perplexity": overfitting_claims}
    return by_result.get(experiment.result.name, image_verdicts)(experiment)


def image_verdicts(experiment: Experiment) -> list[str]:
    """Return one line on the paper's order, then one per neighbouring pair; the bare claim where it has no numbers."""
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
        if variant.stack == "BdiaStack" and baseline and ours and theirs:
            seen = f"{variant.label} {ours.text()}, {baseline.label} {theirs.text()}"
            outcome = "holds in the means" if ours.mean > theirs.mean else "does not hold"
            data = data_name(baseline.example.config)
            claim = f"Paper's claim BDIA > standard (it has no figures for these runs on {data})"
            lines.append(f"{claim}: here {seen}: {outcome}; the difference is {difference_text(ours, theirs)}.")
    return lines
