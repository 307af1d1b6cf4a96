"""The kit for small runs on a lent GPU: which jobs, how many epochs fit, what is packed, images to the bit."""

import argparse
import json
import sys
import tarfile
import time

import numpy as np
import pytest
from gpu_kit import run_jobs
from gpu_kit.cifar_part import ROW, SIDE, read_sheets, write_sheets
from gpu_kit.run_jobs import STACKS, STARTUP, Job, epochs_that_fit, jobs_of, pack, plan, records, run, value


def asked(**changes):
    settings = {"experiments": ["one", "two"], "seeds": 2, "epochs": 100, "margin": 1.0, "override": ["a=b"]}
    return argparse.Namespace(**settings | changes)


def write_record(folder, name, status, **metrics):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"name": metric, "value": number} for metric, numbers in metrics.items() for number in numbers]
    (folder / f"{name}.json").write_text(json.dumps({"status": status, "metrics": rows}))


def test_jobs_go_seed_by_seed_with_all_stacks_of_a_seed_together():
    assert jobs_of("one", 2) == [Job("one", stack, seed) for seed in (0, 1) for stack in STACKS]


def test_a_job_is_one_run_of_bdia_train(tmp_path):
    command = Job("one", "bdia", 3).command(tmp_path / "runs", tmp_path / "results", ["trainer.max_epochs=1"])
    assert command[:3] == [sys.executable, "-m", "bdia.train"]
    assert {"experiment=one", "stack=bdia", "seed=3", "hydra.mode=RUN", "trainer.max_epochs=1"} <= set(command)


@pytest.mark.parametrize(
    ("seconds", "rounds", "epoch", "fit"),
    [
        (STARTUP + 105, 1, 1, 100),
        (STARTUP + 55, 1, 1, 50),
        (2 * STARTUP + 110, 2, 1, 50),
        (STARTUP, 1, 1, 0),
        (0, 1, 1, 0),
    ],
)
def test_the_epochs_that_fit_are_a_multiple_of_ten_and_at_most_the_number_wanted(seconds, rounds, epoch, fit):
    assert epochs_that_fit(seconds, 100, rounds, epoch) == fit


def test_the_last_experiment_is_cut_first_and_left_out_where_too_little_of_it_fits():
    def epochs(seconds):
        firsts = plan(asked(), 6, 1.0, seconds)[:: 2 * len(STACKS)]
        return [(job.experiment, overrides[1:]) for job, overrides in firsts]

    both = 2 * (STARTUP + 100) + 1
    assert epochs(both) == [("one", []), ("two", [])]
    assert epochs(both - 30) == [("one", []), ("two", ["trainer.max_epochs=70"])]
    assert epochs(both - 90) == [("one", [])]
    assert epochs(10) == []


def test_only_records_that_ended_well_are_read_and_packed(tmp_path):
    results = tmp_path / "results"
    write_record(results / "one", "good", "ok", epoch_time=[2.0, 1.0])
    write_record(results / "one", "bad", "failed")
    ((path, record),) = records(results, "one")
    assert path.stem == "good" and value(record, "epoch_time") == 1.0
    pack(asked(results=results, runs=tmp_path / "runs", out=tmp_path / "out"))
    with tarfile.open(tmp_path / "out" / "records.tar.gz") as tar:
        assert tar.getnames() == ["one/good.json"]


def test_runs_go_side_by_side_and_those_that_last_too_long_are_stopped(tmp_path, monkeypatch):
    code = {0: "pass", 1: "raise SystemExit(1)", 2: "import time; time.sleep(60)"}
    monkeypatch.setattr(Job, "command", lambda job, *_: [sys.executable, "-S", "-c", code[job.seed]])
    start = time.monotonic()
    assert run([(Job("one", "bdia", seed), []) for seed in code], 3, start + 2, tmp_path, tmp_path) == 1
    assert time.monotonic() - start < 20


def test_an_unknown_argument_ends_the_script_with_its_usage(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_jobs.py", "--nonesuch"])
    with pytest.raises(SystemExit, match="2"):
        run_jobs.main()
    assert "usage:" in capsys.readouterr().err


def test_images_come_back_from_the_sheets_to_the_bit(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (ROW + 5, 3, SIDE, SIDE), np.uint8)
    write_sheets(images, tmp_path, "train")
    assert np.array_equal(read_sheets(tmp_path, "train", len(images)), images)
