"""What validation chose among trials: by the validation loss alone, shown with the test result of the choice."""

from dataclasses import replace

import pytest

from bdia.results.chosen import TRIALS, groups, parts, table
from bdia.results.page import order
from bdia.results.record import Metric
from bdia.results.statistics import gather
from helpers.synthetic_records import BDIA, STANDARD, make_record


def run(name, stack, loss, accuracy, seed=0, at=0, dropout=0.0, lr=1e-4, gamma=None):
    """A run of a study that ended with a validation loss and a test accuracy."""
    stack = stack | ({"gamma": stack["gamma"] | {"value": gamma}} if gamma else {})
    metrics = [Metric("loss", loss, "nat", "val", 100), Metric("accuracy", accuracy, "%", "test", 100)]
    record = make_record(stack, seed, at=at, metrics=[*metrics, Metric("loss", loss + 1, "nat", "test", 100)])
    config, net = record.config, record.config["model"]["net"] | {"dropout": dropout}
    config = config | {"model": config["model"] | {"net": net}, "optimizer": config["optimizer"] | {"lr": lr}}
    return replace(record, experiment=name, config=config)


def regularised(seeds=(0, 1, 2)):
    """Nothing, dropout at three strengths, BDIA at three gammas, BDIA at 1/2 with dropout; the middle is the best."""
    losses, records = {1: 3.0, 2: 1.0, 3: 2.0}, []
    for seed in seeds:
        rows = [(STANDARD, 4.0, 0.0, None)]
        rows += [(STANDARD, loss, trial / 10, None) for trial, loss in losses.items()]
        rows += [(BDIA, losses[trial], 0.0, gamma) for trial, gamma in ((1, "1/4"), (2, "1/2"), (3, "1"))]
        rows += [(BDIA, loss, trial / 10, "1/2") for trial, loss in losses.items()]
        for at, (stack, loss, dropout, gamma) in enumerate(rows):
            accuracy = 50 + 10 * (stack is BDIA) + dropout + seed * (1 + (stack is BDIA) / 10)
            made = run("regularisers_cifar10_few", stack, loss, accuracy, seed, 100 * seed + at, dropout, gamma=gamma)
            records.append(made)
    return records


LEFT = {1: ("1/4", 2.0), 2: ("1/2", 1.0)}  # place: gamma and validation loss


def test_each_group_of_trials_is_one_row_and_the_least_validation_loss_is_chosen():
    (experiment,) = gather(regularised())
    rows = {(row[0], row[1]): row for row in table(experiment).rows}
    assert [*rows] == [
        ("standard (ViT)", "nothing"),
        ("standard (ViT)", "dropout 0.1, 0.2, 0.3"),
        ("BDIA", "gamma 1/4, 1/2, 1"),
        ("BDIA, gamma ±1/2", "dropout 0.1, 0.2, 0.3"),
    ]
    assert [row[2] for row in rows.values()] == ["\N{EN DASH}", "0.2", "1/2", "0.2"]
    assert [row[3] for row in rows.values()] == ["4.000 ± 0.000", *["1.000 ± 0.000"] * 3]
    assert rows["BDIA", "gamma 1/4, 1/2, 1"][4:6] == ["61.10 ± 1.10 (n=3)", "2.000 ± 0.000"]


def test_the_choice_is_compared_with_nothing_pair_by_pair_and_corrected_over_the_groups():
    (experiment,) = gather(regularised())
    *_, with_dropout = table(experiment).rows
    assert with_dropout[-1].startswith("+10.30 (+10.05 to +10.55; p ")
    assert table(experiment).rows[0][-1] == "\N{EN DASH}"  # nothing beside itself
    (single,) = gather(regularised(seeds=(0,)))
    assert table(single).rows[2][-1] == "+10.00 (one pair)"


def test_a_study_that_is_not_finished_compares_with_nothing_and_not_with_its_first_single_trial():
    runs = [run("regularisers_cifar10_few", STANDARD, 1.0, 50, at=0, dropout=0.1)]
    runs += [run("regularisers_cifar10_few", BDIA, loss, 60, at=at, gamma=g) for at, (g, loss) in LEFT.items()]
    rows = {row[0]: row for row in table(gather(runs)[0]).rows}
    assert rows["standard (ViT), dropout 0.1"][1:3] == ["\N{EN DASH}", "\N{EN DASH}"]
    assert all(len(row) == 6 for row in rows.values()), "no accuracy minus nothing's"
    (experiment,) = gather([*runs, run("regularisers_cifar10_few", STANDARD, 2.0, 45, at=9)])
    rows = {row[1]: row for row in table(experiment).rows}
    assert rows["gamma 1/4, 1/2"][-1] == "+15.00 (one pair)"


def test_a_choice_at_the_edge_of_what_was_tried_is_said():
    rates = {2.5e-4: 1.0, 5e-4: 2.0, 1e-3: 3.0}
    runs = [
        run("optimizers_cifar10_few", STANDARD, loss, 50, at=at, lr=lr) for at, (lr, loss) in enumerate(rates.items())
    ]
    experiments = gather(runs)
    (part,) = parts(experiments)
    assert part.table is not None and part.table.rows[0][1:3] == ["lr 0.00025, 0.0005, 0.001", "0.00025"]
    assert part.found[0].endswith("lie beyond: standard (ViT), optimizer.lr=0.00025.")
    (inside,) = parts(gather(regularised()))
    assert inside.found == ()


def test_a_study_that_is_not_finished_is_said_to_be_so_and_a_run_without_validation_is_left_out():
    records = regularised()
    (whole,) = parts(gather(records))
    (part,) = parts(gather([record for record in records if record.config["model"]["net"]["dropout"] != 0.3]))
    assert part.found == ("At the edge of what was tried, so a better value may lie beyond: standard (ViT), "
                          "model.net.dropout=0.2; BDIA, gamma ±1/2, model.net.dropout=0.2.",
                          "The study is not finished: some groups have fewer trials than others.")  # fmt: skip
    assert whole.found == ()
    blind = [replace(record, metrics=[row for row in record.metrics if row.split != "val"]) for record in records[:1]]
    assert groups(gather([*blind, *records[1:10]])[0])[0].key is not None


def test_a_study_without_trials_or_with_one_of_each_has_no_such_table():
    assert groups(gather([make_record(STANDARD)])[0]) == []
    assert parts(gather([run("optimizers_cifar10_few", STANDARD, 1.0, 50)])) == []


@pytest.mark.parametrize("study", TRIALS)
def test_the_studies_with_trials_exist(study):
    assert (order.EXPERIMENTS / f"{study}.yaml").is_file()
