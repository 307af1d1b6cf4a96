"""Numbers of training runs: results/<experiment>/*.json."""

from functools import cache
from typing import TYPE_CHECKING

from bdia.results.record import RunRecord
from bdia.results.statistics import Experiment, Spread, Variant, gather
from bdia.results.store import read_records
from doc_numbers.common import RESULTS, known, pick, word

if TYPE_CHECKING:
    from bdia.results.paired import Paired


@cache
def experiments() -> dict[str, Experiment]:
    """Return all experiments with records, by name."""
    return {experiment.name: experiment for experiment in gather(read_records(RESULTS))}


def variant(experiment: str, name: str) -> Variant:
    """Return one variant of an experiment."""
    found = {word(each.label): each for each in pick(experiments(), experiment, "results/").variants}
    return pick(found, name, experiment)


def run(experiment: str, name: str, *metric: str) -> Spread:
    """Return the final value of a metric."""
    split, key = (metric[0], metric[1]) if len(metric) == 2 else (None, metric[0])
    return known(variant(experiment, name).spread(key, split), f"{experiment} {name} {' '.join(metric)}")


def best(experiment: str, name: str, split: str, metric: str) -> Spread:
    """Return the lowest value of a metric's curve."""
    found = variant(experiment, name).spread_of(lambda record: record.best(metric, split, higher=False).value)
    return known(found, f"{experiment} {name} {split} {metric}")


def rise(experiment: str, name: str, split: str, metric: str) -> Spread:
    """Return how far the last value of a metric's curve lies above its lowest."""
    found = variant(experiment, name).spread_of(
        lambda record: record.final(metric, split) - record.best(metric, split, higher=False).value
    )
    return known(found, f"{experiment} {name} {split} {metric}")


def paired(*words: str) -> Spread:
    """Return the differences of two variants' final values over the seeds that both have."""
    return Spread.of(_pairs(*words).differences)


def interval(*words: str) -> str:
    """Return the 95 % t interval of `paired`."""
    low, high = _pairs(*words).interval
    return f"{low:.2f} to {high:.2f}"


def _pairs(experiment: str, name: str, other: str, split: str, metric: str) -> "Paired":
    from bdia.results.paired import Paired  # here: it takes longer than all the rest

    values = [variant(experiment, each).values(lambda run: run.final(metric, split)) for each in (name, other)]
    return known(Paired.of(*values), f"{experiment} {name} {other}")


def shared_seeds(experiment: str) -> set[int]:
    """Return the seeds that every variant of an experiment has."""
    variants = pick(experiments(), experiment, "results/").variants
    return set.intersection(*({run.seed for run in each.runs} for each in variants))


def seeds(experiment: str) -> int:
    """Return how many seeds every variant of an experiment has."""
    return len(shared_seeds(experiment))


def counted(experiment: str) -> list[RunRecord]:
    """Return the records that the numbers of an experiment are made of."""
    return [record for each in pick(experiments(), experiment, "results/").variants for record in each.runs]


def minutes(experiment: str) -> float:
    """Return the sum of the wall time of the runs."""
    return sum(record.wall_s for record in counted(experiment)) / 60
