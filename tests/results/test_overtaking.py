"""From which epoch on BDIA is ahead: the rule, the pairs that are compared, the table."""

import math
from dataclasses import replace

import pytest

from bdia.results.overtaking import ahead_from, parts, table
from bdia.results.record import Metric
from bdia.results.statistics import gather
from helpers.synthetic_records import BDIA, STANDARD, make_record


def run(stack, losses, seed=0, at=0, epochs=40):
    """A run that validated every tenth of its 400 steps; accuracy is 100 less the loss."""
    metrics = [
        Metric(name, value, unit, "val", 400 * (index + 1) // len(losses))
        for name, unit, values in (("loss", "nat", losses), ("accuracy", "%", [100 - loss for loss in losses]))
        for index, value in enumerate(values)
    ]
    record = make_record(stack, seed, at=at, metrics=metrics)
    return replace(record, config=record.config | {"trainer": record.config["trainer"] | {"max_epochs": epochs}})


@pytest.mark.parametrize(
    ("ours", "epoch"),
    [
        ([3, 3, 1, 1], 30),  # ahead from the third of four validations on
        ([1, 3, 1, 1], 30),  # an early lead that was lost does not count
        ([1, 1, 1, 1], 10),
        ([1, 1, 1, 3], math.inf),
        ([2, 2, 2, 2], math.inf),  # equal is not ahead
    ],
)
def test_ahead_is_better_at_every_later_validation(ours, epoch):
    record, other = run(BDIA, ours), run(STANDARD, [2, 2, 2, 2], at=1)
    assert ahead_from(record, other, "loss", higher=False) == epoch
    assert ahead_from(record, other, "accuracy", higher=True) == epoch


def test_only_steps_that_both_validated_count():
    record, other = run(BDIA, [3, 3, 1, 1]), run(STANDARD, [2, 2], at=1)
    assert ahead_from(record, other, "loss", higher=False) == 40


def test_the_table_has_the_median_over_the_seeds_and_those_that_stay_behind():
    records = [
        *(run(STANDARD, [2, 2, 2, 2], seed, seed) for seed in range(3)),
        *(run(BDIA, [3] * behind + [1] * (4 - behind), seed, 10 + seed) for seed, behind in enumerate((1, 3, 4))),
        run(BDIA, [1, 1, 1, 1], 7, 20),  # without a partner
    ]
    ((data, epochs, loss, accuracy, pairs),) = table(gather(records)).rows
    assert "cifar10" in data and epochs == "40" and pairs == "3"
    assert loss == accuracy == "30 (20 to 40), 1 not ahead at the end"


def test_without_a_pair_or_in_a_short_run_there_is_nothing():
    assert parts(gather([run(BDIA, [1, 1])])) == []
    short = [run(BDIA, [1, 1], epochs=2), run(STANDARD, [2, 2], at=1, epochs=2)]
    assert parts(gather(short)) == []
