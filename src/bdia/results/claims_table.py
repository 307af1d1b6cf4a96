"""The paper's claims with our verdicts as a table, and under each what stands behind it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bdia.results.claims import command_of
from bdia.results.published import setting_differences
from bdia.results.record import RunRecord
from bdia.results.statistics import NONE
from bdia.results.tables import Table, markdown, markdown_text
from bdia.results.verdicts import RULE, Verdict, p_text

COLUMNS = ["claim", "paper", "ours", "difference (95 % interval)", "pairs", "p (Holm)", "verdict"]


@dataclass(frozen=True)
class ClaimRow:
    """A claim as a row of the table.

    Args:
        cells: one per column. behind: lines on what the verdict rests on.
    """

    cells: list[str]
    behind: list[str]

    @classmethod
    def of(cls, verdict: Verdict) -> "ClaimRow":
        """Return the row of a claim that training runs test."""
        return cls(_cells(verdict), behind(verdict))


def claims_table(rows: Sequence[ClaimRow]) -> Table:
    """Return one row per claim."""
    return Table(COLUMNS, [row.cells for row in rows])


def _cells(verdict: Verdict) -> list[str]:
    claim, found = verdict.claim, verdict.found
    name = f"{claim.place}: {claim.text}"
    if found is None:
        return [name, claim.paper, NONE, NONE, NONE, NONE, verdict.outcome]
    digits, unit = claim.measure.digits, claim.measure.unit
    difference = f"{found.mean:+.{digits}f} {unit}"
    if found.n > 1 and not claim.measure.repeats:
        low, high = found.interval
        difference += f" ({low:+.{digits}f} to {high:+.{digits}f})"
    means = f"{found.first.mean:.{digits}f} against {found.second.mean:.{digits}f}"
    p = NONE if math.isnan(verdict.corrected_p) else p_text(verdict.corrected_p)
    return [name, claim.paper, means, difference, str(found.n), p, verdict.outcome]


def behind(verdict: Verdict) -> list[str]:
    """Return what a verdict rests on: command, commits, cost, all that differs from the paper's setting, run ids."""
    if verdict.experiment is None or verdict.ours is None:
        return ["No experiment with records measures it yet."]
    runs = verdict.runs
    shas = [sha for run in runs for sha in (*run.git.get("resumed_from", ()), run.git["sha"])]
    commits = ", ".join(dict.fromkeys(sha[:12] for sha in shas))
    differs = "; ".join(setting_differences(verdict.ours.example.config))
    return [
        f"Measured by `{command_of(verdict.experiment.name)}`: {verdict.claim.measure.text}; "
        f"commit {commits}; {cost(runs)}.",
        f"Not the paper's setting: {differs}." if differs else "The paper's setting.",
        f"Runs: {', '.join(run.run_id for run in runs)}.",
    ]


def claims_markdown(rows: Sequence[ClaimRow]) -> str:
    """Return the claims with their verdicts, the rule, and what each verdict rests on."""
    rule = "\n".join(f"- {markdown_text(line)}" for line in RULE)
    parts = [
        "# The paper's claims",
        "Generated from the run records: do not edit.",
        markdown(claims_table(rows)),
        rule,
    ]
    for row in rows:
        bullets = "\n".join(f"- {markdown_text(line)}" for line in row.behind)
        parts.append(f"## {markdown_text(row.cells[0])}\n\n{bullets}")
    return "\n\n".join(parts) + "\n"


def cost(runs: Sequence[RunRecord]) -> str:
    """Return the time of the runs: core-hours of CPUs, hours of each other device."""
    hours: Counter[str] = Counter()
    for run in runs:
        on_cpu = run.device.get("cuda") is None
        device = "core-hours" if on_cpu else f"hours of one {run.device['name']}"
        hours[device] += run.wall_s / 3600 * (run.device.get("threads") or 1 if on_cpu else 1)
    return ", ".join(f"{amount:.1f} {device}" for device, amount in sorted(hours.items()))
