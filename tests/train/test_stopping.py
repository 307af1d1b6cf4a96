"""A cluster tells a run to leave its machine: it writes its checkpoint, is queued again, and goes on exactly."""

import os
import signal
import stat

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import OmegaConf

from bdia.results.store import read_records
from bdia.train.job import train
from bdia.train.launch import run_job
from bdia.train.stopping import REQUEUE
from helpers.training_helpers import At, assert_same, checkpoint, run_dir

SLURM = {  # of a job's only process
    "SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "39", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_NAME": "bdia",
    "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def single_job(monkeypatch):
    """Hydra's own config, of a job that is no sweep's."""
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"mode": "RUN"}))


@pytest.fixture
def handlers():
    """Put the handlers of a test back."""
    before = {number: signal.getsignal(number) for number in REQUEUE}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Be a job of SLURM; returns the file into which its scontrol writes what it was called with."""
    command, called = tmp_path / "bin" / "scontrol", tmp_path / "called"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return called


def told(number, hook="on_train_batch_end", batches=7):
    return At(hook, batches, lambda: os.kill(os.getpid(), number))


def stopped(cfg):
    """Run a job that is told to leave; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        run_job(cfg)
    return ended.value.code


def assert_same_end(cfg, whole):
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_same(checkpoint(cfg)[part], checkpoint(whole)[part], part)


@pytest.mark.parametrize("number", REQUEUE)
def test_the_checkpoint_is_there_before_the_job_is_queued_again_and_the_run_goes_on_exactly(
    number, tiny, add_callbacks, handlers, tmp_path
):
    cfg, whole = tiny(), tiny(f"paths.runs={tmp_path / 'whole'}")
    seen = []
    signal.signal(number, lambda *_: seen.append(checkpoint(cfg, "last.ckpt")["global_step"]))
    add_callbacks(told(number))
    assert stopped(cfg) == 128 + number
    assert seen == [7]
    assert [record.status for record in read_records(cfg.paths.results)] == ["interrupted"]
    add_callbacks()
    train(cfg)
    train(whole)
    assert_same_end(cfg, whole)


def test_slurm_is_asked_to_queue_the_job_again_and_lightning_does_not_do_so_too(
    tiny, add_callbacks, handlers, scontrol, tmp_path
):
    cfg, whole = tiny(), tiny(f"paths.runs={tmp_path / 'whole'}")
    requeues = []

    def note(trainer):
        requeues.append(trainer._accelerator_connector.cluster_environment.auto_requeue)

    add_callbacks(told(signal.SIGUSR1), LambdaCallback(on_train_start=lambda trainer, task: note(trainer)))
    assert stopped(cfg) == 128 + signal.SIGUSR1
    assert requeues == [False]
    assert scontrol.read_text() == "requeue 39_1\n"
    add_callbacks()
    train(cfg)
    train(whole)
    assert_same_end(cfg, whole)


def test_a_job_that_is_told_to_leave_in_its_test_is_queued_again_too(tiny, add_callbacks, handlers, scontrol, tmp_path):
    cfg, whole = tiny(), tiny(f"paths.runs={tmp_path / 'whole'}")
    add_callbacks(told(signal.SIGUSR2, "on_test_batch_start", 15))
    assert stopped(cfg) == 128 + signal.SIGUSR2
    assert scontrol.read_text() == "requeue 39_1\n"
    add_callbacks()
    found, wanted = train(cfg), train(whole)
    assert found.final("loss", "test") == wanted.final("loss", "test")
    assert_same_end(cfg, whole)


def test_a_job_that_slurm_ends_for_good_is_not_queued_again(tiny, add_callbacks, handlers, scontrol):
    cfg = tiny()
    add_callbacks(told(signal.SIGTERM))
    assert stopped(cfg) == 128 + signal.SIGTERM
    assert (run_dir(cfg) / "last.ckpt").exists() and not scontrol.exists()


def test_where_scontrol_fails_the_run_says_how_to_go_on(tiny, add_callbacks, handlers, scontrol, capsys):
    cfg = tiny()
    (scontrol.parent / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    add_callbacks(told(signal.SIGUSR2))
    assert stopped(cfg) == 128 + signal.SIGUSR2
    assert "scontrol could not queue job 39_1 again" in capsys.readouterr().err
    assert (run_dir(cfg) / "last.ckpt").exists()
