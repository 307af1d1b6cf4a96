"""Sweeps from the command line, in processes of their own."""

import itertools
import os
import subprocess
import sys
from collections import Counter

import pytest

from bdia import InvalidValueError
from bdia.results.report import build_report
from bdia.results.statistics import gather
from bdia.results.store import read_records
from bdia.train import devices
from bdia.train.launch import jobs_of, launch
from helpers.training_helpers import TINY

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


@pytest.mark.slow
def test_a_sweep_over_laws_bits_and_seeds_leaves_a_record_and_a_wandb_run_per_job_and_one_table(places, tmp_path):
    swept = ["gamma@stack.gamma=half,quarter", "stack.bits=7,9", "seed=0,1"]
    command = [sys.executable, "-m", "bdia.cli", "sweep", *TINY, *places, *swept, "logger=default", "name=sweep"]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=600).returncode == 0
    records = read_records(tmp_path / "results")
    assert [record.status for record in records] == ["ok"] * 8
    conditions = Counter(
        (r.config["stack"]["gamma"]["value"], r.config["stack"]["bits"], r.config["seed"]) for r in records
    )
    assert conditions == Counter((gamma, bits, seed) for gamma in ("1/2", "1/4") for bits in (7, 9) for seed in (0, 1))
    runs = sorted(tmp_path.glob("runs/sweep/*/wandb/offline-run-*"))
    assert len({run.parents[1] for run in runs}) == len(runs) == 8
    build_report(tmp_path / "results", tmp_path / "report")
    (experiment,) = gather(records)
    assert sorted(len(variant.runs) for variant in experiment.variants) == [2, 2, 2, 2]
    table = tmp_path / "report" / "tables" / f"{experiment.name}.md"
    rows = [line for line in table.read_text().splitlines() if "(n=2)" in line]
    assert len(rows) == 4
    for bits, gamma in itertools.product(("bits 7", "bits 9"), ("1/2", "1/4")):
        assert sum(bits in row and gamma in row for row in rows) == 1


def jobs(*overrides, sweep=False):
    """What distinguishes the jobs."""
    found = jobs_of(overrides, sweep)
    common = set.intersection(*map(set, found))
    return [" ".join(choice for choice in job if choice not in common) for job in found]


def test_a_sweep_has_a_job_for_each_combination():
    assert jobs("seed=0,1", "stack=bdia", "stack.bits=7,9", sweep=True) == [
        "seed=0 stack.bits=7", "seed=0 stack.bits=9", "seed=1 stack.bits=7", "seed=1 stack.bits=9"
    ]  # fmt: skip
    assert jobs("seed=range(1,4)", sweep=True) == ["seed=1", "seed=2", "seed=3"]
    assert jobs("stack=bdia") == jobs("stack=bdia", sweep=True) == [""]


def test_an_experiments_sweep_is_found_and_what_is_given_takes_the_place_of_its_values():
    stacks = ["standard", "checkpoint", "revvit", "bdia"]
    assert jobs("experiment=demo") == [f"seed={seed} stack={name}" for seed in (0, 1) for name in stacks]
    assert jobs("experiment=demo", "seed=1,2", "stack=bdia") == ["seed=1", "seed=2"]
    assert len(jobs_of(["experiment=demo", "hydra.sweeper.params.seed='0,1,2'"])) == 12
    assert jobs("experiment=demo", "hydra.mode=RUN") == [""]


def test_several_values_without_a_sweep_are_refused():
    with pytest.raises(InvalidValueError, match=r"seed=0,1: several values are a sweep, `bdia sweep`"):
        jobs_of(["seed=0,1"])


def test_the_starter_of_several_processes_leaves_it_to_the_first_to_say_where_records_go(
    places, tmp_path, monkeypatch, capsys
):
    asked = []
    monkeypatch.setattr(devices, "start", lambda overrides, count: asked.append(count))
    monkeypatch.chdir(tmp_path)
    launch([*TINY, *places, "stack=bdia", "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"])
    assert asked == [2] and capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_jobs_are_those_that_hydra_runs(places, tmp_path):
    overrides = [*TINY, *places, "trainer.max_epochs=1", "stack=standard,bdia", "trainer.enable_progress_bar=true"]
    command = [sys.executable, "-m", "bdia.cli", "sweep", *overrides]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    said = [line for line in done.stdout.splitlines() if "[HYDRA]" not in line]
    assert said[0] == f"records go to {tmp_path / 'results'}, checkpoints and logs to {tmp_path / 'runs'}"
    assert said[1::6] == ["job 1 of 2: stack=standard", "job 2 of 2: stack=bdia"]
    assert said[2].startswith("job 1 of 2: epoch 1 of 1, 0 s left; all jobs: about ")
    assert [line.partition(" ")[0] for line in said[3:7]] == ["test", "peak", "record:", "checkpoint:"]
    assert [record.status for record in read_records(tmp_path / "results")] == ["ok", "ok"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_job_refused_while_it_is_built_lets_its_siblings_finish(launcher, places, tmp_path):
    overrides = [*TINY, *places, "trainer.max_epochs=1", "stack.nested=[nothing],[]", f"hydra/launcher={launcher}"]
    command = [sys.executable, "-m", "bdia.cli", "sweep", *overrides]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "nothing" in done.stderr.splitlines()[-1]
    assert any(line.startswith("job 1 of 2: error: ") for line in done.stderr.splitlines())
    assert [record.status for record in read_records(tmp_path / "results")] == ["ok"]


@pytest.mark.slow
def test_an_accident_in_a_job_lets_its_siblings_finish_and_keeps_its_traceback(places, tmp_path):
    (tmp_path / "accident.py").write_text("def net(width, **_):\n    return [][width]\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    overrides = [*TINY, *places, "trainer.max_epochs=1"]
    choice = "model.net._target_=accident.net,bdia.models.VisionTransformer"
    command = [sys.executable, "-m", "bdia.cli", "sweep", *overrides, choice]
    done = subprocess.run(command, env=ENVIRONMENT | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "return [][width]" in done.stderr
    assert [record.status for record in read_records(tmp_path / "results")] == ["failed", "ok"]
