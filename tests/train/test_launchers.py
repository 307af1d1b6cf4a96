"""Hydra's launchers: sweeps in processes that submitit and Ray start, and a job that is queued again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bdia import InvalidValueError, UnsupportedError
from bdia.build import compose
from bdia.results.store import read_records
from bdia.train import launchers
from bdia.train.job import train
from bdia.train.launchers import check_launcher
from helpers.places import ROOT
from helpers.training_helpers import TINY, assert_same

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
PACKAGES = {"submitit_local": "hydra_plugins.hydra_submitit_launcher", "ray": "hydra_plugins.hydra_ray_launcher"}


def sweep(places, launcher, *choices):
    """Start a sweep; returns the process."""
    command = [sys.executable, "-m", "bdia.cli", "sweep", f"hydra/launcher={launcher}", *TINY, *places, *choices]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def ends(folder, seed=0):
    """The last checkpoint of a run."""
    (path,) = folder.glob(f"runs/custom/*_s{seed}/final.ckpt")
    return torch.load(path, weights_only=False)


def assert_same_end(found, wanted):
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_same(found[part], wanted[part], part)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", PACKAGES)
def test_a_launcher_s_jobs_train_as_runs_of_this_process_do(launcher, places, tiny, tmp_path):
    pytest.importorskip(PACKAGES[launcher], reason="extra `launchers` or `ray`")
    process = sweep(places, launcher, "seed=0,1")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    assert sorted((record.seed, record.status) for record in read_records(tmp_path / "results")) == [
        (0, "ok"),
        (1, "ok"),
    ]
    train(tiny(f"paths.runs={tmp_path / 'here' / 'runs'}", "seed=1"))
    assert_same_end(ends(tmp_path, seed=1), ends(tmp_path / "here", seed=1))


def child_of(pid):
    """The only child of a process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def wait_for(pattern, folder, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := sorted(folder.glob(pattern))):
        assert time.monotonic() < deadline and process.poll() is None, f"no {pattern}"
        time.sleep(0.02)
    return found[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the job's process in /proc, which Linux has")
def test_a_job_of_submitit_that_is_told_to_leave_is_started_again_and_goes_on_exactly(places, tiny, tmp_path):
    pytest.importorskip(PACKAGES["submitit_local"], reason="extra `launchers`")
    process = sweep(places, "submitit_local", "seed=0", "trainer.max_epochs=60")
    job = wait_for("runs/hydra/*/.submitit/*/*_submitted.pkl", tmp_path, process).parent
    wait_for("runs/custom/*/last.ckpt", tmp_path, process)
    os.kill(child_of(job.name), signal.SIGUSR2)  # submitit's; what SLURM sends `signal_delay_s` before a job's end
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    assert [record.status for record in read_records(tmp_path / "results")] == ["interrupted", "ok"]
    log = (job / f"{job.name}_0_log.out").read_text()
    assert "Requeued job" in log and "continues from" in log
    train(tiny(f"paths.runs={tmp_path / 'whole' / 'runs'}", "trainer.max_epochs=60"))
    assert_same_end(ends(tmp_path), ends(tmp_path / "whole"))


TWO = ("trainer.devices=2", "trainer.strategy=ddp")


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        (("submitit_local", *TWO), InvalidValueError, r"devices=2 with hydra/launcher=submitit_local.*submitit_slurm"),
        (
            ("submitit_slurm", *TWO, "hydra.launcher.tasks_per_node=1"),
            InvalidValueError,
            r"tasks_per_node=1 with trainer\.devices=2.*set hydra\.launcher\.tasks_per_node=2",
        ),
        (
            ("submitit_slurm", *TWO, "hydra.launcher.nodes=3"),
            InvalidValueError,
            r"nodes=3 with trainer\.num_nodes=1.*set hydra\.launcher\.nodes=1",
        ),
        (("submitit_slurm", *TWO), UnsupportedError, r"srun was not found.*submitit_local"),
        (
            ("submitit_local", "+hydra.launcher.timeout_minutes=3"),
            InvalidValueError,
            r"hydra.launcher.timeout_minutes: hydra/launcher=submitit_local reads no timeout_minutes; did you mean "
            r"hydra.launcher.timeout_min\?",
        ),
        (
            ("submitit_local", "+hydra.launcher.gres=gpu"),
            InvalidValueError,
            "reads no gres; leave it out; it reads submitit_folder, ",
        ),
        (("submitit_slurm", "+hydra.launcher.gres=gpu"), UnsupportedError, "srun was not found"),
    ],
)
def test_what_a_launcher_cannot_start_is_refused_by_name(choices, error, message, monkeypatch):
    pytest.importorskip(PACKAGES["submitit_local"], reason="extra `launchers`")
    monkeypatch.setenv("PATH", "")
    launcher, *more = choices
    cfg = compose([f"hydra/launcher={launcher}", *more], return_hydra_config=True)
    with pytest.raises(error, match=message):
        check_launcher(cfg.hydra.launcher, cfg.trainer)


@pytest.mark.parametrize(("kind", "extra"), [("submitit", "launchers"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_is_refused_with_its_extra(kind, extra, monkeypatch):
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    launcher = {"_target_": f"hydra_plugins.hydra_{kind}_launcher.some.Launcher"}
    with pytest.raises(UnsupportedError, match=rf"hydra-{kind}-launcher is not installed.*bdia\[{extra}\]"):
        check_launcher(launcher, {"devices": 1})
