import json
import os
from dataclasses import replace

import pytest

from bdia.results import RecordError, read_records, write_record
from bdia.results.report import build_report
from bdia.results.store import read_all
from helpers.synthetic_records import make_record, make_study


def test_records_come_back_as_they_were_written(tmp_path):
    study = make_study()
    paths = [write_record(record, tmp_path) for record in study]
    assert paths[0] == tmp_path / study[0].experiment / f"{study[0].run_id}.json"
    assert read_records(tmp_path) == sorted(study, key=lambda record: record.run_id)


def test_a_crash_before_the_rename_leaves_no_file(tmp_path, monkeypatch):
    def crash(source, target):
        assert os.path.getsize(source) > 0  # all of it was written before the rename
        raise OSError("power cut")

    monkeypatch.setattr("bdia.data.files.os.replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_record(make_record(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_record_is_never_overwritten(tmp_path):
    path = write_record(make_record(), tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_record(make_record(wall_s=99.0), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "tables", "bench", "finetune_gamma"])
def test_an_experiment_that_cannot_name_its_folder_is_refused(tmp_path, name):
    with pytest.raises(RecordError, match="experiment: saw"):
        write_record(make_record(experiment=name), tmp_path)


ODD = {
    "empty": "",
    "not JSON": "{",
    "a list": "[]",
    "few keys": '{"schema": 1}',
    "a newer schema": '{"schema": 2}',
    "deep": "[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "no seed": {"seed": None},
    "a field too many": {"mood": "good"},
    "an unknown metric": {"metrics": [{"name": "luck", "value": 1, "unit": "1"}]},
    "metrics of another kind": {"metrics": [3]},
    "a text for a number": {"wall_s": "long"},
    "no device": {"device": None},
    "signatures of another kind": {"signatures": [1]},
    "a status nobody knows": {"status": "fine"},
    "a number for a name": {"precision": 32},
}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_file_is_named_with_the_reason_and_the_others_are_read(tmp_path, kind, caplog):
    path, content = write_record(make_record(), tmp_path), ODD[kind]
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content})
    path.with_name("odd.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    records, unread = read_all(tmp_path)
    assert len(records) == 1 and len(unread) == 1 and "odd.json: " in unread[0] and "\n" not in unread[0]
    assert read_records(tmp_path) == records and "not read: " in caplog.text


def test_a_folder_and_a_broken_link_with_the_name_of_a_record_are_named(tmp_path):
    path = write_record(make_record(), tmp_path)
    path.with_name("folder.json").mkdir()
    path.with_name("link.json").symlink_to("nowhere")
    path.with_name("loop.json").symlink_to("loop.json")
    records, unread = read_all(tmp_path)
    assert len(records) == 1 and len(unread) == 3


def test_a_record_under_a_foreign_name_is_named(tmp_path):
    path = write_record(make_record(), tmp_path)
    path.rename(path.with_name("copy.json"))
    records, (line,) = read_all(tmp_path)
    assert records == [] and "copy.json: run_id" in line


def test_the_page_lists_what_was_not_read(tmp_path):
    path = write_record(make_record(), tmp_path)
    path.with_name("odd.json").write_text("<script>")
    page = build_report(tmp_path, tmp_path).read_text(encoding="utf-8")
    assert "Not read" in page and "odd.json" in page and "<script>" not in page.partition("<noscript>")[0]


def test_folders_beside_the_experiments_are_not_read(tmp_path):
    write_record(make_record(), tmp_path)
    for name in ("tables", "bench", "finetune_gamma"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other.json").write_text("[]")
    assert len(read_records(tmp_path)) == 1


def test_a_missing_results_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_records(tmp_path / "nowhere")


def test_a_list_of_metrics_spoilt_after_construction_is_not_written(tmp_path):
    record = make_record()
    record.metrics.append(replace(record.metrics[0]))  # the first step of the curve again
    with pytest.raises(RecordError, match="ascending"):
        write_record(record, tmp_path)
    assert not any(tmp_path.iterdir())
