"""Tables: ours beside the published figures, spreads beside means."""

from bdia.results.tables import details_table, summary_table
from helpers.synthetic_records import BDIA, make_metrics, make_record, make_study, only


def test_difference_to_the_paper_is_ours_minus_published():
    table = summary_table(only([make_record(BDIA, metrics=make_metrics(90.0))]))
    assert table.rows[0][2:4] == ["89.10", "+0.90"]


def test_both_published_sources_stand_beside_ours():
    rows = {row[0]: row[1:] for row in details_table(only(make_study())).rows}
    assert rows["paper, Table 1: accuracy, %"] == ["88.15", "86.22", "89.10"]
    assert rows["student implementation: peak memory"] == ["1508 MiB", "730 MiB", "909 MiB"]


def test_a_step_time_that_spreads_shows_its_spread():
    records = [
        make_record(seed=seed, at=seed, metrics=make_metrics(step_ms=ms)) for seed, ms in enumerate((40.0, 60.0))
    ]
    (row,) = summary_table(only(records)).rows
    assert "50.0 ± 14.1" in " ".join(row)
    assert "±" not in " ".join(summary_table(only(make_study())).rows[0][4:])
