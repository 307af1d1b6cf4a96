"""Build the dashboard of a study on W&B: a workspace and a report, saved there; print their addresses.

Usage: bdia dashboard study=... [key=value ...]

  study=             the runs' group on W&B: their folder in results/, such as table1_cifar10_long
  measure=accuracy   what the study compares: accuracy, bleu, chrf, exact_match, perplexity or loss
  project=bdia       project of W&B that the runs were logged to
  entity=            who owns it; empty: the default one of your key
  dry_run=false      true: print the workspace's JSON, read back by the library; needs no key and no network

Panels: the measure against peak memory, curves by stack with standard errors, memory by category, time, exactness,
sweeps of gamma and bits, parallel coordinates. Without dry_run it needs a key (`wandb login` or WANDB_API_KEY). The
report is not in the dry run: W&B has to be asked for its project first.

Examples:
  bdia dashboard study=table1_cifar10_long dry_run=true
  bdia dashboard study=translation_cpu measure=bleu
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdia import UnsupportedError
from bdia.cli.arguments import MISSING, read_arguments

if TYPE_CHECKING:
    from bdia.results.dashboard import Study


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    study: str = MISSING
    measure: str = "accuracy"
    project: str = "bdia"
    entity: str = ""
    dry_run: bool = False


def run(argv: Sequence[str]) -> None:
    """Print the workspace's JSON, or save workspace and report and print where they are.

    Raises:
        UnsupportedError: no key, or W&B refuses it, can't be reached or does not take the dashboard.
        DashboardError: the workspace does not come back from its JSON as it was.
    """
    arguments = read_arguments(Arguments(), argv)
    if not arguments.dry_run:
        _check_reachable()
    from bdia.results.dashboard import Study, checked_json, workspace

    study = Study(arguments.study, arguments.measure, arguments.entity, arguments.project)
    text = checked_json(workspace(study))
    if arguments.dry_run:
        print(text)
        return
    for line in _saved(study):
        print(line)


def _check_reachable() -> None:
    from bdia.train.wandb_mode import api_key, unreachable

    key = api_key()
    if not key:
        raise UnsupportedError("W&B: there is no key; run `wandb login`, set WANDB_API_KEY, or set dry_run=true")
    if reason := unreachable(key):
        raise UnsupportedError(f"W&B: {reason}; dry_run=true needs no network")


def _saved(study: Study) -> list[str]:
    """Save both; returns their addresses."""
    import wandb

    from bdia.results.dashboard import report, workspace

    try:
        if not study.entity:
            study = study._replace(entity=wandb.Api().default_entity or "")
        saved = workspace(study).save()
        told = report(study).save()
    except (wandb.Error, ValueError, OSError) as error:
        where = f"{study.entity}/{study.project}"
        raise UnsupportedError(
            f"W&B does not take the dashboard of {where} ({' '.join(str(error).split())[:300]}); set entity or project"
        ) from error
    return [f"workspace: {saved.url}", f"report: {told.url}"]
