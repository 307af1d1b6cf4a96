import os
from dataclasses import replace

import pytest

from bdia.results import RecordError, read_records, write_record
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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
def test_a_broken_file_is_an_error_that_names_it(tmp_path, text):
    path = write_record(make_record(), tmp_path)
    path.with_name("broken.json").write_text(text)
    with pytest.raises(RecordError, match=r"broken\.json: "):
        read_records(tmp_path)


def test_a_record_under_a_foreign_name_is_an_error(tmp_path):
    path = write_record(make_record(), tmp_path)
    path.rename(path.with_name("copy.json"))
    with pytest.raises(RecordError, match=r"copy\.json: run_id"):
        read_records(tmp_path)


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
