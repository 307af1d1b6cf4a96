"""From which epoch on BDIA is ahead of the standard model, by the amount of data: the study of the length of training.

Nothing is trained for it: the validation curves of every image study hold it. A seed's pair of runs with otherwise
equal settings is compared at the steps that both validated.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from bdia.results.page import order
from bdia.results.page.part import Part
from bdia.results.published import HALF_ON_GRID, data_name, form_of
from bdia.results.record import RunRecord
from bdia.results.statistics import ACCURACY, Experiment, Variant
from bdia.results.tables import Table
from bdia.reversible.stacks.registry import STANDARD

NAME = "overtaking"
TITLE = "Length of training: from which epoch on BDIA is ahead"
# Metric -> whether more is better.
MEASURES: Mapping[str, bool] = {"loss": False, "accuracy": True}
MIN_EPOCHS = 20  # a shorter run says nothing


def ahead_from(ours: RunRecord, theirs: RunRecord, name: str, higher: bool) -> float:
    """Return the epoch of the first validation from which `ours` is better at every one; infinity: not at the end."""
    mine, other = ({row.step: row.value for row in record.curve(name, "val")} for record in (ours, theirs))
    steps = sorted(step for step in mine.keys() & other.keys() if step is not None)
    behind = [step for step in steps if not (mine[step] > other[step] if higher else mine[step] < other[step])]
    after = [step for step in steps if not behind or step > behind[-1]]
    last = max((row.step or 0 for row in ours.metrics), default=0)
    return after[0] / last * ours.config["trainer"]["max_epochs"] if after else math.inf


def pairs(experiment: Experiment) -> Iterator[tuple[Variant, Variant]]:
    """Yield BDIA as the paper has it with the standard model of the same settings."""
    for variant in experiment.variants:
        if variant.runs and form_of(variant.example.config) == HALF_ON_GRID:
            for other in experiment.variants:
                same = other.setting_beside_stack == variant.setting_beside_stack
                if other.runs and other.stack == STANDARD.class_name and same:
                    yield variant, other


def table(experiments: Sequence[Experiment]) -> Table:
    """Return one row per amount of data and length: for loss and accuracy the median epoch, and over how many seeds."""
    rows = []
    for experiment in experiments:
        if experiment.result != ACCURACY or experiment.fine_tunes:
            continue
        for ours, theirs in pairs(experiment):
            config = ours.example.config
            epochs, images = config["trainer"].get("max_epochs"), config["data"].get("train_per_class")
            by_seed = {run.seed: run for run in theirs.runs}
            runs = [(run, by_seed[run.seed]) for run in ours.runs if run.seed in by_seed]
            if isinstance(epochs, int) and epochs >= MIN_EPOCHS and runs:
                found = [[ahead_from(*pair, name, higher) for pair in runs] for name, higher in MEASURES.items()]
                rows.append(
                    [
                        f"{data_name(config)}, {images or 'all'} images a class",
                        str(epochs),
                        *map(_cell, found),
                        str(len(runs)),
                    ]
                )
    heads = [f"validation {name}: ahead from epoch" for name in MEASURES]
    return Table(["data", "epochs", *heads, "pairs"], rows)


def _cell(epochs: Sequence[float]) -> str:
    """Return the median over the seeds that end ahead, their range, and how many do not."""
    ahead = [epoch for epoch in epochs if math.isfinite(epoch)]
    never = len(epochs) - len(ahead)
    told = f"{statistics.median(ahead):.0f} ({min(ahead):.0f} to {max(ahead):.0f})" if ahead else ""
    return ", ".join(filter(None, [told, f"{never} not ahead at the end" if never else ""]))


def parts(experiments: Sequence[Experiment]) -> list[Part]:
    """Return the study as the page shows it; nothing where no experiment holds it."""
    shown = table(experiments)
    if not shown.rows:
        return []
    text = (
        "BDIA learns more slowly at first. An epoch counts from which BDIA is better at every later validation: median "
        "over the seeds (least to largest). The validation images are held out of the training set."
    )
    source = "The validation curves of the records above; nothing was trained for it."
    return [
        Part(NAME, NAME, TITLE, text, shown, None, (), "bdia report", source, (), (), order.place(NAME)),
    ]
