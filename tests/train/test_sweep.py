"""Sweeps from the command line, in processes of their own."""

import itertools
import os
import subprocess
import sys
from collections import Counter

import pytest

from bdia.results.report import build_report
from bdia.results.statistics import gather
from bdia.results.store import read_records
from helpers.training_helpers import TINY

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


@pytest.mark.slow
def test_a_sweep_over_laws_bits_and_seeds_leaves_a_record_and_a_wandb_run_per_job_and_one_table(places, tmp_path):
    swept = ["gamma@stack.gamma=half,quarter", "stack.bits=7,9", "seed=0,1"]
    command = [sys.executable, "-m", "bdia.train", "-m", *TINY, *places, *swept, "logger=default", "name=sweep"]
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
    (table,) = (tmp_path / "report" / "tables").iterdir()
    rows = [line for line in table.read_text().splitlines() if "(n=2)" in line]
    assert len(rows) == 4
    for bits, gamma in itertools.product(("bits 7", "bits 9"), ("1/2", "1/4")):
        assert sum(bits in row and gamma in row for row in rows) == 1


@pytest.mark.slow
def test_a_failing_job_lets_its_siblings_finish_and_the_sweep_exits_with_1(places, tmp_path):
    script = os.path.join(os.path.dirname(__file__), "..", "scripts", "train.py")
    command = [sys.executable, script, "-m", *TINY, *places, "trainer.max_epochs=1", "stack.bits=99,9"]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=600).returncode == 1
    assert [record.status for record in read_records(tmp_path / "results")] == ["failed", "ok"]
