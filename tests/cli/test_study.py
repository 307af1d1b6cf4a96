"""`bdia study`: what it writes, and what an interrupted one leaves."""

import json

import pytest

from bdia.bench.studies import limits
from bdia.cli import study
from bdia.results.study_record import read_newest

ROWS = [{"label": "BDIA", "question": "most blocks", "gib": 1.0, "ran": n, "planned": n} for n in (3, 2)]


def pretend(monkeypatch, *parts):
    def measure(arguments):
        for part in parts:
            if isinstance(part, BaseException):
                raise part
            yield [part]

    monkeypatch.setattr(limits, "measure", measure)


def rows_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def test_a_finished_study_leaves_its_record_alone(monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, *ROWS)
    study.run(["name=limits", f"out={tmp_path / 'limits'}"])
    (path,) = (tmp_path / "limits").iterdir()
    assert path.suffix == ".json" and str(path) == capsys.readouterr().out.strip() and rows_of(path) == ROWS


def test_an_interrupted_study_leaves_what_it_measured_where_nothing_reads_it(monkeypatch, tmp_path):
    pretend(monkeypatch, *ROWS, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        study.run(["name=limits", f"out={tmp_path / 'limits'}"])
    (path,) = (tmp_path / "limits").iterdir()
    assert path.name.endswith(".json.part") and rows_of(path) == ROWS
    assert read_newest(tmp_path, "limits", lambda row: None) is None
