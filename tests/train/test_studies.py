"""`bdia studies`: what is left out, what is forecast, jobs side by side until the time is up."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import bdia.train.budget
import bdia.train.launch
from bdia.build import CONFIGS, compose
from bdia.cli.main import main
from bdia.cli.studies import read_budget
from bdia.results.identity import code_since
from bdia.results.store import finished_records, write_record
from bdia.train.job import find_recorded, train
from bdia.train.side_by_side import Command, run_side_by_side
from bdia.train.studies import (
    is_done,
    overrides_of,
    scales_of,
    studies,
    study_jobs,
)
from helpers.training_helpers import run_dir

RESULTS = CONFIGS.parent / "results"


def command(name, code, folder):
    return Command(name, [sys.executable, "-S", "-c", code], folder / f"{name}.log")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("25min", 1500), ("8h", 28800), ("", float("inf"))])
def test_a_budget_is_a_length_of_time(text, seconds):
    assert read_budget(text) == seconds


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("budget=25", "budget=25: wanted a length of time such as 90s, 25min or 8h; set budget"),
        ("budget=-1min", "budget=-1min: wanted a length"),
        ("scale=huge", "scale=huge: wanted one of cpu, few, long, paper, smoke; set scale"),
        ("only=[table3]", "only=table3: wanted some of table1_cifar10, "),
        ("workers=-1", "workers=-1: wanted 0 or more; set workers"),
        ("data=nowhere", "data=nowhere: no such folder"),
    ],
)
def test_what_cannot_be_run_is_one_clear_error(argument, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["studies", argument])
    assert message in capsys.readouterr().err


def test_a_scale_that_a_study_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(ValueError, match="scale=few: translation has cpu, long, paper, smoke; set scale"):
        overrides_of("translation", "few")


def test_jobs_go_seed_by_seed_and_each_is_what_its_own_choices_compose_to():
    jobs = study_jobs("table1_cifar10", "few", ["seed=3,1"])
    assert [job.config.seed for job in jobs] == [1, 1, 1, 3, 3, 3]
    assert len({job.sha for job in jobs}) == 6
    for job in jobs:
        assert compose(job.choices) == job.config


@pytest.mark.parametrize(
    ("study", "scale", "recorded"),
    [
        ("table1_cifar10", "long", 14),
        pytest.param("table1_cifar100", "long", 14, marks=pytest.mark.slow),
        pytest.param("table1_cifar10", "few", 9, marks=pytest.mark.slow),
    ],
)
def test_the_records_of_a_study_are_found_and_left_out(study, scale, recorded, tmp_path):
    finished = finished_records(RESULTS)
    jobs = study_jobs(study, scale)
    assert sum(is_done(job, finished, tmp_path) for job in jobs) >= recorded
    assert not any(is_done(job, {}, tmp_path) for job in jobs)


def test_a_run_that_ended_well_beside_its_weights_is_done_without_a_record(tmp_path):
    (job, *_) = study_jobs("table1_cifar10", "smoke")
    folder = tmp_path / str(job.config.name) / f"{job.sha[:8]}_s0"
    folder.mkdir(parents=True)
    assert not is_done(job, {}, tmp_path)
    (folder / "record.json").write_text("{}")
    assert is_done(job, {}, tmp_path)


def test_jobs_run_side_by_side_and_the_rest_is_told_to_end_at_the_deadline(tmp_path):
    wait = "import signal,sys,time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('up', flush=True); "
    commands = [
        command("good", "print('done')", tmp_path),
        command("bad", "raise SystemExit(3)", tmp_path),
        command("long", wait + "time.sleep(60)", tmp_path),
        command("never", "time", tmp_path),
    ]
    told = []
    start = time.monotonic()
    ended = run_side_by_side(commands[:3] + [commands[2]] * 3 + commands[3:], 3, 3.0, told.append)
    assert time.monotonic() - start < 20
    assert told == ended
    assert [end.code for end in sorted(ended, key=lambda end: end.index)] == [0, 3, None, None, None]
    assert (tmp_path / "good.log").read_text() == "done\n"
    assert not (tmp_path / "never.log").exists()


def test_sigterm_tells_every_job_to_end(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bdia.train.side_by_side import Command, run_side_by_side;"
        "job = [sys.executable, '-S', '-c', 'import time; print(1, flush=True); time.sleep(60)'];"
        "ended = run_side_by_side([Command('a', job, Path(sys.argv[1]))], 1, 50, print); print(len(ended))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 40
    while not ((tmp_path / "log").exists() and (tmp_path / "log").read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert "code=None" in out and out.splitlines()[-1] == "1"


def test_a_budget_that_ends_is_typed_again_and_goes_on_until_all_is_recorded(tmp_path, monkeypatch, capsys):
    """Jobs are replaced by ones that write what a finished run leaves, the second only when it is run again."""
    monkeypatch.setattr(bdia.train.budget.Forecast, "seconds_of", lambda _, jobs: [1.0] * len(jobs))
    again = tmp_path / "again"

    def argv(job, runs, results):
        folder = runs / job.config.name / f"{job.sha[:8]}_s{job.config.seed}"
        write = f"from pathlib import Path; p = Path({str(folder)!r}); p.mkdir(parents=True, exist_ok=True);"
        write += "(p / 'record.json').write_text('{}')"
        slow = "import time, pathlib;" + f"pathlib.Path({str(again)!r}).exists() or time.sleep(60);"
        return [sys.executable, "-S", "-c", (slow if "stack=bdia" in job.choices else "") + write]

    monkeypatch.setattr("bdia.train.studies.StudyJob.argv", argv)
    words = ["studies", "scale=smoke", "only=[table1_cifar10]", "workers=3", f"runs={tmp_path / 'runs'}"]
    words += [f"results={tmp_path / 'results'}"]
    main([*words, "budget=2s"])
    said = capsys.readouterr().out
    assert "3 runs at scale smoke, 0 of them done before" in said
    assert "table1_cifar10: 3 runs to do, 3 expected in time" in said
    assert "1 runs are left, 0 s with 3 side by side: type the command again" in said or "1 runs are left" in said
    again.touch()
    main(words)
    said = capsys.readouterr().out
    assert "3 runs at scale smoke, 2 of them done before" in said and "all runs are done" in said
    main(words)
    assert capsys.readouterr().out == "3 runs at scale smoke, 3 of them done before\n"


@pytest.mark.slow
def test_a_study_that_is_killed_while_it_trains_goes_on_and_ends_with_the_same_weights(tmp_path):
    """No fake: the command as a process, its jobs, a SIGTERM once the first one trains, and the command again."""

    def words(name):
        places = [f"runs={tmp_path / name / 'runs'}", f"results={tmp_path / name / 'results'}"]
        return [sys.executable, "-m", "bdia.cli", "studies", "scale=smoke", "only=[table1_cifar10]", *places]

    whole = subprocess.run([*words("whole"), "workers=2"], check=True, capture_output=True, text=True).stdout
    assert "all runs are done" in whole
    killed = subprocess.Popen([*words("killed"), "workers=1"], stdout=subprocess.PIPE, text=True)
    runs = tmp_path / "killed" / "runs"
    deadline = time.monotonic() + 300
    while not list(runs.glob("table1_cifar10_smoke/*/csv")) and time.monotonic() < deadline:
        time.sleep(0.01)  # the loggers' folder comes with the first batch
    killed.send_signal(signal.SIGTERM)
    said, _ = killed.communicate(timeout=300)
    assert "runs are left" in said and "type the command again" in said
    again = subprocess.run([*words("killed"), "budget=10min"], check=True, capture_output=True, text=True).stdout
    assert "all runs are done" in again
    first, second = (sorted((tmp_path / name / "runs").glob("*/*/final.ckpt")) for name in ("whole", "killed"))
    assert [path.parent.name for path in first] == [path.parent.name for path in second] and len(first) == 3
    for one, other in zip(first, second, strict=True):
        states = [torch.load(path, weights_only=False)["state_dict"] for path in (one, other)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_job_that_fails_is_named_with_its_log_and_the_command_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bdia.train.budget.Forecast, "seconds_of", lambda _, jobs: [1.0] * len(jobs))
    monkeypatch.setattr("bdia.train.studies.StudyJob.argv", lambda *_: [sys.executable, "-S", "-c", "1/0"])
    with pytest.raises(SystemExit, match="1"):
        main(["studies", "scale=smoke", "only=[table1_cifar10]", f"runs={tmp_path}", f"results={tmp_path / 'r'}"])
    assert "stack=bdia: failed, see " in capsys.readouterr().out
    assert all("ZeroDivisionError" in path.read_text() for path in (tmp_path / "logs").iterdir())


def test_a_sweep_leaves_out_what_the_results_hold_and_names_the_commit(tiny, caplog, monkeypatch):
    cfg = tiny("stack=standard")
    assert find_recorded(cfg) is None
    record = train(cfg)
    found = find_recorded(cfg)
    assert found is not None and found.run_id == record.run_id
    assert f"already recorded by commit {record.git['sha'][:7]}" in caplog.text
    assert find_recorded(tiny("stack=standard", "seed=7")) is None
    failed = replace(record, run_id=f"{record.run_id}x", status="failed", config_sha256="0" * 64, error="x")
    write_record(failed, cfg.paths.results)
    assert list(finished_records(cfg.paths.results)) == [record.config_sha256]


def test_whether_the_code_has_changed_since_a_commit_is_said(tmp_path):
    assert code_since(CONFIGS.parent, "0" * 40) == "whether the code has changed since cannot be told"


@pytest.mark.parametrize("stack", ["bdia", pytest.param("bdia_pretrained", marks=pytest.mark.slow)])
def test_reversible_training_gives_the_weights_of_stored_activations(stack, tiny):
    """So studies of accuracy may train with stored activations, which is quicker."""
    weights = []
    for backward in ("reversible", "stored"):
        cfg = tiny(f"stack={stack}", f"stack.backward={backward}", f"name={backward}")
        train(cfg)
        weights.append(torch.load(run_dir(cfg) / "final.ckpt", weights_only=False)["state_dict"])
    first, second = weights
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("study", studies())
def test_every_study_runs_at_smoke_from_a_bare_clone(study, tmp_path, capsys):
    assert "smoke" in scales_of(study)[1]
    main(["studies", "scale=smoke", f"only=[{study}]", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"])
    assert "all runs are done" in capsys.readouterr().out
    assert len(finished_records(tmp_path / "results")) == len(study_jobs(study, "smoke"))
