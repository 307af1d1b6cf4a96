"""The study of inference in the report: tables, figure, provenance, and a record that is none."""

import json

import pytest

from bdia.results import inference
from bdia.results.record import RecordError
from bdia.results.report import build_report
from bdia.results.statistics import NONE
from bdia.results.store import write_record
from helpers.synthetic_records import make_study


def make():
    """Two seeds; accuracy 50 and 52 % at gamma 0, 10 points less at other gammas."""
    rows = []
    for stack in ("standard (ViT)", "BDIA", "RevViT"):
        for seed in (0, 1):
            points = [("clean", "", 0), ("corruption", "noise 0.04", -5)]
            if stack != "RevViT":
                points += [("gamma, grid", 0.0, 0), ("gamma, grid", 0.5, -10), ("gamma, float", 0.0, 1)]
                points += [("bits", 4, -3), ("paths", 1, -1), ("paths", 16, 2)]
            for part, value, less in points:
                row = {"part": part, "value": value, "accuracy": 50.0 + 2 * seed + less, "loss": 1.0, "ece": 7.0}
                rows.append({"stack": stack, "seed": seed, **row})
    header = {"schema": 1, "study": "inference", "git": {"sha": "abcdef0123456789", "dirty": False}, "started_utc": ""}
    device, settings = {"name": "CPU (test)", "torch": "2.14.0"}, {"runs": "runs/some"}
    return {**header, "device": device, "settings": settings, "wall_s": 12.0, "rows": rows}


def test_the_tables_hold_means_and_spread_over_the_seeds():
    tables = inference.tables(make())
    assert tables["gamma"].columns == ["trained as", "gamma 0", "gamma +0.5"]
    assert tables["gamma"].rows[0] == ["standard (ViT): accuracy, %", "51.00 ± 1.41", "41.00 ± 1.41"]
    assert tables["bits"].rows[1] == ["BDIA", "52.00 ± 1.41", "48.00 ± 1.41"]
    rows = {row[0]: row[1:] for row in tables["corruption"].rows}
    assert rows["noise 0.04: accuracy, %"] == ["46.00 ± 1.41"] * 3
    assert rows["mean of 16 paths: accuracy, %"][:2] == ["53.00 ± 1.41"] * 2
    assert rows["mean of 16 paths: accuracy, %"][2] == NONE
    assert rows["clean: calibration error, %"] == ["7.00 ± 0.00"] * 3


def test_the_page_shows_the_parts_with_one_figure(tmp_path):
    for record in make_study():
        write_record(record, tmp_path)
    folder = tmp_path / "inference"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(make()))
    page = build_report(tmp_path, tmp_path / "out").read_text(encoding="utf-8")
    assert all(title.replace("'", "&#39;") in page for title in inference.TITLES.values())
    assert page.count("constant gamma at inference") == 1  # the axis of the one figure
    assert "2 trained models of each stack in runs/some" in page


def test_a_part_of_the_test_set_is_named():
    record = make()
    assert inference.provenance(record)[0].startswith("Test set, 2 trained models")
    record["settings"]["images"] = 1000
    assert inference.provenance(record)[0].startswith("The first 1,000 images of the test set, too few to rank")


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"stack": "BDIA"}]}'])
def test_a_file_that_is_no_record_is_named(text, tmp_path):
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "x.json").write_text(text)
    with pytest.raises(RecordError, match=r"x.json: no record of the study inference"):
        inference.read_newest(tmp_path)


def test_without_a_record_there_is_nothing(tmp_path):
    assert inference.read_newest(tmp_path) is None
