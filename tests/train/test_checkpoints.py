"""Checkpoints survive kills, damage and full disks; a run's checkpoint stays until its record is on the disk."""

import errno
import os
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

import bdia.train.job
from bdia.results.store import read_records
from bdia.train import checkpoints
from bdia.train.checkpoints import FINAL, LAST, PREVIOUS, CheckpointError, WholeCheckpointIO, newest_whole
from bdia.train.job import train
from helpers.training_helpers import At, broken, checkpoint, rows, run_dir, sigterm, statuses

CONTENT = {"state_dict": {"weight": torch.arange(5000.0)}, "loops": {}}


def save(folder: Path, number: int, name: str = LAST) -> None:
    WholeCheckpointIO().save_checkpoint({**CONTENT, "number": number}, folder / name)


def number(path: Path) -> int:
    return torch.load(path, weights_only=True)["number"]


def test_the_last_checkpoint_is_kept_in_two_generations(tmp_path):
    for n in range(3):
        save(tmp_path, n)
    assert (number(tmp_path / LAST), number(tmp_path / PREVIOUS)) == (2, 1)
    save(tmp_path, 7, FINAL)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([LAST, PREVIOUS, FINAL])


@pytest.mark.parametrize("point", ["write", "fsync", "link", "replace"])
def test_a_failure_at_any_point_of_writing_leaves_a_whole_checkpoint_behind(tmp_path, monkeypatch, point):
    save(tmp_path, 0)
    save(tmp_path, 1)

    def fail(*arguments, **keywords):
        raise KeyboardInterrupt

    if point == "write":
        monkeypatch.setattr(checkpoints.torch, "save", fail)
    else:
        monkeypatch.setattr(os, point, fail)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert number(newest_whole(tmp_path, finished=False)) == 1
    assert number(tmp_path / PREVIOUS) in (0, 1)


def test_without_links_the_file_before_stays_too(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    for n in range(3):
        save(tmp_path, n)
    assert (number(tmp_path / LAST), number(tmp_path / PREVIOUS)) == (2, 1)


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def flip_a_weight(path):
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[record.header_offset + record.file_size // 2] ^= 1
    path.write_bytes(data)


def other_content(path):
    torch.save({"weights": 1}, path)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip_a_weight, other_content, empty])
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_older_one_taken(tmp_path, caplog, damage):
    save(tmp_path, 0)
    save(tmp_path, 1)
    damage(tmp_path / LAST)
    found = newest_whole(tmp_path, finished=False)
    assert found == tmp_path / PREVIOUS and number(found) == 0
    assert f"{LAST} is damaged" in caplog.text
    save(tmp_path, 2)  # the damaged file does not take the place of the good one
    assert (number(tmp_path / LAST), number(tmp_path / PREVIOUS)) == (2, 0)


def test_where_all_are_damaged_one_line_names_them_and_the_way_out(tmp_path):
    save(tmp_path, 0)
    save(tmp_path, 1)
    for name in (LAST, PREVIOUS):
        cut(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{LAST}.*{re.escape(PREVIOUS)}.*train from the start"):
        newest_whole(tmp_path, finished=False)
    assert newest_whole(tmp_path, finished=False) is None


def test_final_weights_of_a_finished_run_are_not_gone_on_from(tmp_path):
    save(tmp_path, 0, FINAL)
    assert newest_whole(tmp_path, finished=True) is None
    assert newest_whole(tmp_path, finished=False) == tmp_path / FINAL


def test_a_run_goes_on_from_the_older_checkpoint_to_the_same_bits(tiny, add_callbacks, tmp_path):
    cfg, whole = tiny(), tiny(*(f"paths.{name}={tmp_path / 'whole' / name}" for name in ("runs", "results")))
    add_callbacks(At("on_train_epoch_start", 10, broken))
    with pytest.raises(RuntimeError):
        train(cfg)
    cut(run_dir(cfg) / LAST)
    add_callbacks()
    assert rows(train(cfg)) == rows(train(whole))
    wanted = checkpoint(whole)["state_dict"]
    assert all(torch.equal(value, wanted[name]) for name, value in checkpoint(cfg)["state_dict"].items())


def test_a_full_disk_ends_the_run_in_one_line_and_the_same_command_goes_on(tiny, monkeypatch):
    cfg, real, calls = tiny(), torch.save, []

    def full(content, file):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(content, file)

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*the one before is whole.*paths\.runs"):
        train(cfg)
    assert statuses(cfg) == ["failed"]
    train(cfg)
    assert statuses(cfg) == ["failed", "ok"]
    assert not list(run_dir(cfg).glob(".unfinished*"))


def test_the_checkpoint_stays_until_the_record_is_written_and_then_only_the_test_is_repeated(tiny, monkeypatch):
    cfg, real = tiny(), bdia.train.job.write_record
    monkeypatch.setattr(bdia.train.job, "write_record", lambda *args: broken())
    with pytest.raises(RuntimeError):
        train(cfg)
    assert {FINAL, LAST} <= {path.name for path in run_dir(cfg).iterdir()}
    monkeypatch.setattr(bdia.train.job, "write_record", real)
    steps = []
    monkeypatch.setattr("bdia.tasks.ImageClassification.training_step", lambda *args: steps.append(1))
    record = train(cfg)
    assert record.status == "ok" and not steps
    assert record.final("accuracy", "test") is not None and len(record.curve("loss", "train")) == 3
    assert not (run_dir(cfg) / LAST).exists() and not (run_dir(cfg) / PREVIOUS).exists()


@pytest.mark.parametrize("batch", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 10))])
def test_a_checkpoint_after_every_step_forgets_no_row(tiny, add_callbacks, tmp_path, batch):
    more = ("callbacks.checkpoint.every_n_epochs=null", "+callbacks.checkpoint.every_n_train_steps=1")
    more += ("+trainer.val_check_interval=2", "data.val_fraction=0.03")
    cfg, whole = tiny(*more), tiny(*more, *(f"paths.{n}={tmp_path / 'whole' / n}" for n in ("runs", "results")))
    add_callbacks(At("on_train_batch_start", batch + 1, broken))
    with pytest.raises(RuntimeError):
        train(cfg)
    add_callbacks()
    assert rows(train(cfg)) == rows(train(whole))


def test_a_run_told_to_end_twice_in_one_epoch_still_reports_the_whole_epoch(tiny, add_callbacks, tmp_path):
    cfg, whole = tiny(), tiny(*(f"paths.{name}={tmp_path / 'whole' / name}" for name in ("runs", "results")))
    for batch in (7, 9):
        add_callbacks(At("on_train_batch_end", batch, sigterm))
        with pytest.raises(SIGTERMException):
            train(cfg)
    add_callbacks()
    assert rows(train(cfg)) == rows(train(whole))
    assert read_records(cfg.paths.results)[-1].status == "ok"


@pytest.mark.parametrize(("minutes", "batch"), [(0, 7), (11, 5), (None, 5)])
def test_a_checkpoint_is_written_when_its_time_has_come(tiny, add_callbacks, monkeypatch, minutes, batch):
    looks = iter(range(10**6))  # at the clock, three minutes apart
    monkeypatch.setattr("bdia.callbacks.checkpoint.time", SimpleNamespace(monotonic=lambda: 180 * next(looks)))
    cfg = tiny(f"callbacks.checkpoint.minutes={'null' if minutes is None else minutes}")
    add_callbacks(At("on_train_batch_end", 8, broken))  # of fifteen, five an epoch
    with pytest.raises(RuntimeError):
        train(cfg)
    assert checkpoint(cfg, LAST)["global_step"] == batch
