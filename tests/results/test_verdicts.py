"""What is said of the paper's order of the stacks: holds, does not hold, not resolved."""

import pytest

from bdia.results.published import data_name
from bdia.results.verdicts import verdicts
from helpers.synthetic_records import BDIA, make_metrics, make_record, make_study, only


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
