import pytest

from bdia.results import gather
from bdia.results.published import TABLE_2, data_name, paper_row, setting_differences
from bdia.results.report import notes
from bdia.results.tables import details_table, summary_table
from bdia.results.verdicts import verdicts
from helpers.synthetic_records import BDIA, GAMMA, REVVIT, STANDARD, make_config, make_metrics, make_record, make_study

FLOAT = {**BDIA, "bits": None}
ZERO = {"_target_": "bdia.reversible.Constant", "value": "0"}


def only(records):
    (experiment,) = gather(records)
    return experiment


@pytest.mark.parametrize(
    ("stack", "data", "accuracy"),
    [
        (STANDARD, "cifar10", 88.15),
        (REVVIT, "cifar10", 86.22),
        (BDIA, "cifar10", 89.10),
        (STANDARD, "cifar100", 61.86),
        (REVVIT, "cifar100", 61.89),
        (BDIA, "cifar100", 66.09),
        (FLOAT, "cifar10", 89.12),
        ({**FLOAT, "gamma": ZERO}, "cifar10", 88.15),
    ],
)
def test_published_accuracy_belongs_to_data_and_stack(stack, data, accuracy):
    assert paper_row(make_config(stack, data=data)).accuracy == accuracy


@pytest.mark.parametrize("change", [{"bits": 7}, {"gamma": {**GAMMA, "value": "1/4"}}, {"gamma": ZERO}])
def test_what_the_paper_did_not_run_has_no_published_figure(change):
    assert paper_row(make_config(BDIA | change)) is None


def test_gamma_half_as_a_decimal_is_the_same_law():
    assert paper_row(make_config(FLOAT | {"gamma": {**GAMMA, "value": 0.5}})).source == TABLE_2


def test_difference_to_the_paper_is_ours_minus_published():
    table = summary_table(only([make_record(BDIA, metrics=make_metrics(90.0))]))
    assert table.rows[0][2:4] == ["89.10", "+0.90"]


def test_both_published_sources_stand_beside_ours():
    rows = {row[0]: row[1:] for row in details_table(only(make_study())).rows}
    assert rows["paper, Table 1: accuracy, %"] == ["88.15", "86.22", "89.10"]
    assert rows["student implementation: peak memory"] == ["1508 MiB", "730 MiB", "909 MiB"]


def test_a_smaller_setting_is_said_to_be_not_the_papers():
    (note,) = notes(only(make_study()))
    assert note.startswith("Not the paper's setting: width 128 (paper: 512)")
    assert "train_per_class 200 (paper: all 50,000 images)" in note
    assert "max_epochs 100 (paper: 300 to 400)" in note
    assert "lr" not in note  # agrees


def test_the_papers_setting_needs_no_note():
    config = make_config()
    config["model"]["net"] |= {"width": 512, "patch_size": 4, "heads": 8}
    config["data"]["train_per_class"] = None
    config["trainer"]["max_epochs"] = 400
    assert setting_differences(config) == []
    del config["model"]["net"]["width"]
    assert setting_differences(config) == ["width not recorded (paper: 512)"]


def test_verdict_says_when_the_papers_order_holds():
    lines = verdicts(only(make_study(bdia=64.0, standard=60.0, revvit=57.0)))
    assert lines[0] == (
        "Paper's order BDIA 89.10 > standard (ViT) 88.15 > RevViT 86.22: here BDIA 64.00 ± 1.00 (n=3), "
        "standard (ViT) 60.00 ± 1.00 (n=3), RevViT 57.00 ± 1.00 (n=3): holds in the means."
    )
    # two means of three runs with deviation 1: sqrt(1/3 + 1/3) = 0.82
    assert lines[1] == "BDIA minus standard (ViT): +4.00 points with standard error 0.82; paper +0.95."


def test_verdict_says_when_the_papers_order_does_not_hold():
    lines = verdicts(only(make_study(bdia=58.0, standard=60.0, revvit=57.0)))
    assert lines[0].endswith("does not hold.")
    assert lines[1].startswith("BDIA minus standard (ViT): -2.00 points")


def test_a_difference_within_two_standard_errors_is_called_unresolved():
    assert "not resolved" in verdicts(only(make_study(bdia=61.0)))[1]


def test_single_runs_have_no_standard_error():
    records = [make_record(), make_record(BDIA, at=1, metrics=make_metrics(61.0))]
    assert verdicts(only(records))[1] == (
        "BDIA minus standard (ViT): +1.00 points, no standard error (a single run); paper +0.95."
    )


@pytest.mark.parametrize(("accuracy", "outcome"), [(61.0, ": holds in the means;"), (59.0, ": does not hold;")])
def test_on_data_without_published_figures_the_claim_is_tested(accuracy, outcome):
    digits = {"_target_": "bdia.data.DigitsDataModule", "batch_size": 64}
    records = [make_record(), make_record(BDIA, at=1, metrics=make_metrics(accuracy))]
    for record in records:
        record.config["data"] = digits
    assert data_name(records[0].config) == "digits"
    (line,) = verdicts(only(records))
    assert "no figures for these runs on digits" in line
    assert outcome in line


@pytest.mark.parametrize(
    "change",
    [
        {"model.net.dropout": 0.0},
        {"model.net.attention._target_": "timm.layers.Attention"},
        {"data.augmentation": "none"},
        {"scheduler._target_": "bdia.optim.constant"},
        {"trainer.precision": "bf16-mixed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_departure_from_the_papers_setting_is_named(change):
    config = make_config()
    for key, value in change.items():
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    assert len(setting_differences(config)) == len(setting_differences(make_config())) + 1


def test_published_figures_stand_beside_the_published_form_only():
    assert paper_row(make_config(BDIA)) is not None
    assert paper_row(make_config(BDIA | {"gamma": GAMMA | {"per": "batch"}})) is None
    assert paper_row(make_config(REVVIT | {"grid_bits": 9})) is None


@pytest.mark.parametrize("value", ["abc", "1/0", None])
def test_a_config_that_failed_on_its_gamma_still_reports(value):
    assert paper_row(make_config(BDIA | {"gamma": GAMMA | {"value": value}})) is None
    assert paper_row(make_config(BDIA | {"gamma": value})) is None


def test_a_step_time_that_spreads_shows_its_spread():
    records = [
        make_record(seed=seed, at=seed, metrics=make_metrics(step_ms=ms)) for seed, ms in enumerate((40.0, 60.0))
    ]
    (row,) = summary_table(only(records)).rows
    assert "50.0 ± 14.1" in " ".join(row)
    assert "±" not in " ".join(summary_table(only(make_study())).rows[0][4:])
