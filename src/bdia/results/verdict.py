"""Say in one line whether the paper's order holds in our runs, whichever way it comes out."""

import math
from itertools import combinations, pairwise

from bdia.results.aggregate import Experiment, Spread, Variant
from bdia.results.paper import data_name, paper_row
from bdia.results.variants import Settings

Standing = tuple[Variant, Spread, float]  # a variant, our accuracy, the accuracy the paper gives it


def verdicts(experiment: Experiment) -> list[str]:
    """Return one line on the paper's order, then one per neighbouring pair; [] where nothing can be compared."""
    lines: list[str] = []
    for standings in _by_setting(experiment).values():
        ranked = sorted(standings, key=lambda standing: -standing[2])
        if len({wanted for _, _, wanted in ranked}) > 1:
            lines += [_order_line(ranked), *(_difference_line(*pair) for pair in pairwise(ranked))]
    return lines or _claim_lines(experiment)


def _by_setting(experiment: Experiment) -> dict[Settings, list[Standing]]:
    groups: dict[Settings, list[Standing]] = {}
    for variant in experiment.variants:
        ours, paper = variant.spread("accuracy", experiment.result_split), paper_row(variant.example.config)
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
    return f"{names}: {_difference(first[1], second[1])}; paper {first[2] - second[2]:+.2f}."


def _difference(first: Spread, second: Spread) -> str:
    difference = first.mean - second.mean
    error = math.hypot(first.standard_error, second.standard_error)
    if math.isnan(error):
        return f"{difference:+.2f} points, no standard error (a single run)"
    unresolved = " (within two standard errors: not resolved)" if abs(difference) <= 2 * error else ""
    return f"{difference:+.2f} points with standard error {error:.2f}{unresolved}"


def _claim_lines(experiment: Experiment) -> list[str]:
    """Where the paper has no figures for these runs, test its claim: BDIA above the standard stack."""
    lines, split = [], experiment.result_split
    for variant in experiment.variants:
        baseline = experiment.baseline(variant)
        ours, theirs = variant.spread("accuracy", split), baseline and baseline.spread("accuracy", split)
        if variant.stack == "BdiaStack" and baseline and ours and theirs:
            seen = f"{variant.label} {ours.text()}, {baseline.label} {theirs.text()}"
            outcome = "holds in the means" if ours.mean > theirs.mean else "does not hold"
            data = data_name(baseline.example.config)
            claim = f"Paper's claim BDIA > standard (it has no figures for these runs on {data})"
            lines.append(f"{claim}: here {seen}: {outcome}; the difference is {_difference(ours, theirs)}.")
    return lines
