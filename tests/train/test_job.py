"""train(cfg): resuming to the last bit, SIGTERM, what a record says, W&B."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

import bdia.train.job
from bdia import BdiaError
from bdia.build import compose, load_run, load_task
from bdia.data.errors import DataNotFoundError
from bdia.profiling.device import describe_device
from bdia.results.store import read_records
from bdia.reversible import GridOverflowError
from bdia.tasks import ImageClassification
from bdia.train.job import Measured, recorded_config, train
from bdia.train.launch import run_job
from helpers.training_helpers import (
    TINY,
    At,
    assert_resumes_exactly,
    assert_same,
    broken,
    checkpoint,
    compose_config,
    rows,
    run_dir,
    sigterm,
    statuses,
)

# --- Resuming -------------------------------------------------------------------------------------------------------

SEVERAL_BATCHES = ("data.val_fraction=0.03", "data.eval_batch_size=20")  # so that evaluation can be interrupted too
INTERRUPTIONS = {
    "SIGTERM in mid-epoch": ("on_train_batch_end", 7, sigterm),
    "exception between epochs": ("on_train_epoch_start", 10, broken),
    "exception in mid-epoch": ("on_train_batch_end", 7, broken),
    "SIGTERM on an epoch's last batch": ("on_train_batch_end", 10, sigterm),
    "SIGTERM in validation": ("on_validation_batch_start", 10, sigterm),
    "SIGTERM in the test": ("on_test_batch_start", 15, sigterm),
}
CASES = [("stack=bdia", where) for where in INTERRUPTIONS]
CASES += [(f"stack={name}", where) for name in ("standard", "revvit") for where in list(INTERRUPTIONS)[:2]]


@pytest.mark.parametrize(("stack", "where"), CASES)
def test_an_interrupted_and_resumed_run_ends_with_the_bits_of_the_uninterrupted_run(
    stack, where, tiny, add_callbacks, tmp_path
):
    elsewhere = [f"paths.{name}={tmp_path / 'whole' / name}" for name in ("runs", "results")]
    cfg, whole = (tiny(stack, *SEVERAL_BATCHES, *more) for more in ([], elsewhere))
    found, wanted = assert_resumes_exactly(cfg, whole, add_callbacks, INTERRUPTIONS[where], batches=15)
    assert rows(found) == rows(wanted)


def test_a_resumed_run_goes_on_at_the_ramp_s_present_gamma(tiny, add_callbacks, tmp_path):
    ramp = ("gamma@stack.gamma=ramp", "stack.gamma.every=3", *SEVERAL_BATCHES)  # 15 batches: one value each third
    cfg, whole = (
        tiny(*ramp),
        tiny(*ramp, *(f"paths.{name}={tmp_path / 'whole' / name}" for name in ("runs", "results"))),
    )
    assert_resumes_exactly(cfg, whole, add_callbacks, INTERRUPTIONS["SIGTERM in mid-epoch"], batches=15)


def test_a_run_stopped_between_accumulated_batches_keeps_their_gradients(tiny, add_callbacks, tmp_path):
    more = ("data.train_per_class=6", "trainer.accumulate_grad_batches=3", "trainer.max_epochs=2")
    cfg, whole = tiny(*more), tiny(*more, f"paths.runs={tmp_path / 'whole'}")
    add_callbacks(At("on_train_batch_end", 10, sigterm))  # eight batches an epoch, steps after 3, 6, 8, 11, ...
    with pytest.raises(SIGTERMException):
        train(cfg)
    assert checkpoint(cfg, "last.ckpt")["gradients"]
    add_callbacks()
    train(cfg)
    train(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(checkpoint(cfg)[part], checkpoint(whole)[part], part)


IN_BACKWARD = ("optimizer.in_backward=true", *SEVERAL_BATCHES)


@pytest.mark.parametrize("stack", ["stack=bdia", "stack=checkpoint"])
def test_a_run_that_steps_in_backward_has_the_weights_of_the_ordinary_one_also_resumed(
    stack, tiny, add_callbacks, tmp_path
):
    ordinary = tiny(stack, *SEVERAL_BATCHES, f"paths.runs={tmp_path / 'ordinary'}")
    train(ordinary)
    cfg = tiny(stack, *IN_BACKWARD)
    add_callbacks(At("on_train_batch_end", 7, sigterm))
    with pytest.raises(SIGTERMException):
        train(cfg)
    add_callbacks()
    train(cfg)
    (found, wanted) = (checkpoint(each) for each in (cfg, ordinary))
    assert_same(found["state_dict"], wanted["state_dict"])
    states = [each["optimizer_states"][0]["state"] for each in (found, wanted)]
    assert_same(*(dict(sorted(state.items())) for state in states))  # made in the order of backward


def test_a_run_without_tiles_is_the_condition_it_was_before_there_were_tiles():
    for stack in ("bdia", "checkpoint", "revvit"):
        found = recorded_config(compose([f"stack={stack}"]))
        assert "tile" not in found["stack"] and "tile" not in found["model"]["net"]["stack"]
        tiled = recorded_config(compose([f"stack={stack}", "stack.tile={norm2+mlp:8}"]))
        assert tiled["stack"]["tile"] == tiled["model"]["net"]["stack"]["tile"] == {"norm2+mlp": 8}


def test_stepping_in_backward_is_a_condition_of_its_own_and_its_default_is_none():
    assert "in_backward" not in recorded_config(compose([]))["optimizer"]
    assert recorded_config(compose(["optimizer.in_backward=true"]))["optimizer"]["in_backward"] is True
    pretrained = [
        "experiment=finetune_vit_cifar10",
        "scale/finetune_vit=smoke",
        "+weights.pretrain.optimizer.in_backward=false",
    ]
    first = recorded_config(compose(pretrained))["weights"]["pretrain"].get("optimizer") or {}
    assert "in_backward" not in first


def test_label_smoothing_of_images_is_a_condition_of_its_own_and_none_is_what_it_was_before_there_was_any():
    assert "label_smoothing" not in recorded_config(compose([]))["model"]
    assert recorded_config(compose(["model.label_smoothing=0.1"]))["model"]["label_smoothing"] == 0.1
    text = recorded_config(compose(["data=pydoc", "model=gpt2_demo"]))["model"]
    assert text["label_smoothing"] == 0.0  # the records of text tasks have always had it


def test_loggers_are_closed_where_their_summary_can_not_be_written(tiny, monkeypatch):
    def full(loggers, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    closed = []
    monkeypatch.setattr(bdia.train.job, "summarise", full)
    monkeypatch.setattr(bdia.train.job, "close_loggers", lambda loggers, outcome: closed.append(outcome))
    with pytest.raises(OSError, match="No space left"):
        train(tiny("trainer.max_epochs=1"))
    assert closed == ["success"]


def test_a_run_that_another_commit_began_names_both(tiny, add_callbacks, monkeypatch):
    monkeypatch.setattr(bdia.train.job, "_GIT", {"sha": "a" * 40, "dirty": False})
    add_callbacks(At("on_train_batch_end", 7, sigterm))
    with pytest.raises(SIGTERMException):
        train(tiny())
    add_callbacks()
    monkeypatch.setattr(bdia.train.job, "_GIT", {"sha": "b" * 40, "dirty": False})
    record = train(tiny())
    assert record.git == {"sha": "b" * 40, "dirty": False, "resumed_from": ["a" * 40]}
    assert "resumed_from" not in train(tiny("seed=1")).git


def test_a_resumed_run_keeps_the_first_parts_csv(tiny, add_callbacks):
    cfg = tiny()
    add_callbacks(At("on_train_batch_end", 7, sigterm))
    with pytest.raises(SIGTERMException):
        train(cfg)
    add_callbacks()
    train(cfg)
    parts = sorted(run_dir(cfg).glob("csv/version_*/metrics.csv"))
    assert ["val/loss" in part.read_text() for part in parts] == [True, True]


@pytest.fixture
def single_job(monkeypatch):
    """Hydra's own config, of a job that is no sweep's."""
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"mode": "RUN"}))


# --- SIGTERM --------------------------------------------------------------------------------------------------------


def test_sigterm_makes_a_job_exit_with_143_and_leaves_checkpoint_and_record(tiny, add_callbacks, single_job):
    cfg = tiny()
    add_callbacks(At("on_train_batch_end", 3, sigterm))
    with pytest.raises(SystemExit) as exit:
        run_job(cfg)
    assert exit.value.code == 143
    assert (run_dir(cfg) / "last.ckpt").exists()
    (record,) = read_records(cfg.paths.results)
    assert (record.status, record.error) == ("interrupted", "SIGTERMException: ")
    assert {row.name for row in record.metrics} >= {"parameters", "peak_allocated"}


@pytest.mark.slow
def test_a_process_told_to_end_exits_with_143_and_the_same_command_continues(places, tmp_path):
    command = [sys.executable, "-m", "bdia.train", *TINY, *places, "trainer.max_epochs=60"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (found := list(tmp_path.glob("runs/custom/*/last.ckpt"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert found and found[0].exists()
    assert [record.status for record in read_records(tmp_path / "results")] == ["interrupted"]
    assert subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300).returncode == 0
    last = read_records(tmp_path / "results")[-1]
    assert last.status == "ok"
    assert [row.step for row in last.curve("lr", "train")] == list(range(5, 301, 5))
    continued = (found[0].parent / "csv" / "version_1" / "metrics.csv").read_text().splitlines()
    assert int(dict(zip(continued[0].split(","), continued[1].split(","), strict=True))["epoch"]) > 0


# --- Records --------------------------------------------------------------------------------------------------------


def test_a_failing_run_raises_and_leaves_a_record_with_the_reason(tiny, add_callbacks):
    cfg = tiny()
    add_callbacks(At("on_train_batch_end", 3, broken))
    with pytest.raises(RuntimeError, match="broken"):
        train(cfg)
    (record,) = read_records(cfg.paths.results)
    assert (record.status, record.error) == ("failed", "RuntimeError: broken")
    assert record.final("parameters") > 0


@pytest.mark.parametrize(
    "override", ["stack.nested=[nothing]", "model.net.patch_size=5", "trainer.accelerator=gpu", "model=gpt2_demo"]
)
def test_a_run_that_cannot_be_built_is_refused_and_leaves_nothing(override, tiny, tmp_path):
    cfg = compose_config(override, f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path / 'results'}")
    with pytest.raises(BdiaError):
        train(cfg)
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "runs"])


def test_missing_data_leave_no_record_and_no_folder(tiny, tmp_path):
    data = "data=cifar10", f"data.data_dir={tmp_path / 'images'}", "data.download=false", "data.train_per_class=4"
    with pytest.raises(DataNotFoundError):
        train(tiny(*data))
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.glob("runs/*"))


def test_an_interrupted_run_that_is_refused_later_keeps_its_checkpoint(tiny, add_callbacks, monkeypatch):
    cfg = tiny()
    add_callbacks(At("on_train_batch_end", 7, sigterm))
    with pytest.raises(SIGTERMException):
        train(cfg)

    def refused(*_):
        raise DataNotFoundError("the disk is not mounted")

    monkeypatch.setattr(bdia.train.job, "build_data", refused)
    with pytest.raises(DataNotFoundError):
        train(cfg)
    assert (run_dir(cfg) / "last.ckpt").exists() and statuses(cfg) == ["interrupted"]


def test_an_error_for_the_user_from_the_first_batch_on_leaves_a_record(tiny, add_callbacks):
    def overflow():
        raise GridOverflowError("block 3: 40000")

    add_callbacks(At("on_train_batch_end", 1, overflow))
    cfg = tiny()
    with pytest.raises(GridOverflowError):
        train(cfg)
    assert statuses(cfg) == ["failed"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_is_a_status_of_its_own(tiny, monkeypatch, error):
    def training_step(self, batch, batch_idx):
        raise error

    monkeypatch.setattr(ImageClassification, "training_step", training_step)
    cfg = tiny()
    with pytest.raises(type(error)):
        train(cfg)
    assert statuses(cfg) == ["oom"]


def test_a_config_that_ended_well_is_run_again_only_on_request(tiny):
    cfg = tiny("trainer.max_epochs=1")
    first = train(cfg)
    assert train(cfg) == first
    assert statuses(cfg) == ["ok"]
    again = train(tiny("trainer.max_epochs=1", "rerun=true"))
    assert again.run_id != first.run_id
    assert rows(again) == rows(first)
    assert statuses(cfg) == ["ok", "ok"]


def test_another_config_is_another_run(tiny):
    first, second = (train(tiny("trainer.max_epochs=1", f"optimizer.lr={lr}")) for lr in (1e-3, 2e-3))
    assert first.config_sha256 != second.config_sha256
    assert first.final("loss", "test") != second.final("loss", "test")


def test_where_things_lie_and_who_logs_does_not_change_the_hash(tiny, tmp_path):
    cfgs = (tiny(), tiny("logger=default", f"paths.results={tmp_path / 'other'}", "rerun=true"))
    first, second = (bdia.train.job.recorded_config(cfg) for cfg in cfgs)
    assert first == second
    here, there = (
        bdia.train.job.recorded_config(tiny("data=cifar10", f"data.data_dir={place}", "data.train_per_class=4"))
        for place in (tmp_path, "data")
    )
    assert here == there


def test_a_record_holds_no_absolute_path(tiny, add_callbacks, tmp_path):
    def missing():
        raise FileNotFoundError(f"no file '{tmp_path}/deep/er/cifar10.npz' or {Path.home()}/x.npz, 3.5 images/s at 1/2")

    add_callbacks(At("on_train_batch_end", 3, missing))
    cfg = tiny()
    with pytest.raises(FileNotFoundError):
        train(cfg)
    texts = [path.read_text() for path in Path(cfg.paths.results).rglob("*.json")]
    assert len(texts) == 1
    for text in texts:
        assert str(tmp_path) not in text
        assert str(Path.home()) not in text
        assert not re.search(r'(^|[\s"\'(=])/\w+/', text)
    (ours,) = [json.loads(text)["error"] for text in texts if "3.5" in text]
    assert ours == "FileNotFoundError: no file 'cifar10.npz' or x.npz, 3.5 images/s at 1/2"


def test_a_finished_run_keeps_its_record_and_config_beside_the_weights(tiny):
    cfg = tiny("trainer.max_epochs=1")
    record = train(cfg)
    assert OmegaConf.to_container(OmegaConf.load(run_dir(cfg) / "config.yaml")) == record.config
    assert not (run_dir(cfg) / "last.ckpt").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_no_model_stays_in_memory_after_its_job(tiny, monkeypatch, fails):
    alive, training_step = [], ImageClassification.training_step

    def step(self, batch, batch_idx):
        alive.append(weakref.ref(self))
        if fails:
            raise RuntimeError("broken")
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassification, "training_step", step)
    kept = None
    try:
        train(tiny("trainer.max_epochs=1"))
    except RuntimeError as error:
        kept = error  # as a Hydra sweep keeps it
    assert (kept is not None) == fails
    assert alive
    assert not any(reference() for reference in alive)


def test_the_records_config_and_the_checkpoint_are_enough_to_rebuild_the_trained_model(tiny, add_callbacks):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = []

    class Logits(Callback):
        def on_test_end(self, trainer, pl_module):
            wanted.append(pl_module.net(images))

    add_callbacks(Logits())
    cfg = tiny("trainer.max_epochs=1", "stack.bits=7")
    train(cfg)
    rebuilt = load_run(run_dir(cfg) / "final.ckpt")
    with torch.no_grad():
        assert torch.equal(rebuilt.net(images), wanted[0])


def test_the_weights_of_a_bdia_training_are_a_standard_transformer(tiny):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cfg = tiny("trainer.max_epochs=1", "stack=bdia")
    train(cfg)
    weights = run_dir(cfg) / "final.ckpt"
    standard, unrounded, on_grid = (
        load_task(tiny(*overrides), weights, {"num_classes": 10}).net
        for overrides in (["stack=standard"], ["stack.quantize_eval=false"], ["stack=bdia"])
    )
    with torch.no_grad():
        assert torch.equal(standard(images), unrounded(images))
        assert not torch.equal(standard(images), on_grid(images))  # or the line above would say nothing


def test_a_run_on_the_cpu_names_the_cpu_though_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert describe_device("cpu")["name"] != "a GPU"
    assert describe_device("auto")["name"] == "a GPU"


def test_a_job_returns_the_test_accuracy_for_sweepers(tiny, single_job):
    cfg = tiny("trainer.max_epochs=1")
    found = run_job(cfg)
    assert found == read_records(cfg.paths.results)[0].final("accuracy", "test")


# --- What it prints and logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("val_fraction", [0.01, 0])
def test_a_normal_run_warns_of_nothing(tiny, val_fraction):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(tiny("trainer.max_epochs=1", f"data.val_fraction={val_fraction}"))
    assert [str(warning.message) for warning in seen] == []


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """No W&B key, and its folders under tmp_path."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "wandb"))


def test_every_job_is_one_offline_wandb_run_in_its_experiments_group(tiny, add_callbacks, no_key, capfd):
    import wandb

    seen = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append((wandb.run.id, wandb.run.group, wandb.run.offline, wandb.run.config["seed"]))

    add_callbacks(Look())
    cfg = tiny("trainer.max_epochs=1", "logger=default", "name=mine")
    train(cfg)
    assert wandb.run is None
    train(tiny("trainer.max_epochs=1", "logger=default", "name=mine", "seed=1"))
    assert [rest for _, *rest in seen] == [["mine", True, 0], ["mine", True, 1]]
    assert len({run for run, *_ in seen}) == 2
    assert len(list(Path(cfg.paths.runs).glob("mine/*/wandb/offline-run-*"))) == 2
    assert "wandb" not in capfd.readouterr().err


def test_a_failing_run_closes_its_wandb_run(tiny, add_callbacks, no_key):
    import wandb

    add_callbacks(At("on_train_batch_end", 2, broken))
    with pytest.raises(RuntimeError):
        train(tiny("logger=default"))
    assert wandb.run is None


@pytest.mark.parametrize("every", [2, 5], ids=["not a divisor of max_epochs", "never before the end"])
def test_the_final_weights_are_the_last_epochs_however_often_checkpoints_are_written(tiny, every):
    wanted, cfg = (
        tiny("trainer.max_epochs=3"),
        tiny("trainer.max_epochs=3", f"callbacks.checkpoint.every_n_epochs={every}"),
    )
    cfg.name = "rarely"
    for each in (wanted, cfg):
        train(each)
    assert_same(checkpoint(cfg)["state_dict"], checkpoint(wanted)["state_dict"])
    assert not (run_dir(cfg) / "last.ckpt").exists()


@pytest.mark.parametrize("devices", [2, "auto", [0, 1]])
def test_several_devices_are_refused_before_anything_is_written(tiny, devices, tmp_path):
    with pytest.raises(ValueError, match=r"trainer\.(devices|strategy)=.*wanted"):
        train(tiny(f"trainer.devices={devices}"))
    assert not (tmp_path / "results").exists()


def test_two_processes_never_train_the_same_config_in_the_same_folder(tiny, tmp_path):
    cfg = tiny("trainer.max_epochs=1")
    train(cfg)
    cfg.rerun = True
    one = bdia.train.job._held(run_dir(cfg), Measured())
    with one, pytest.raises(RuntimeError, match="another process trains this config"):
        train(cfg)
    assert len(read_records(tmp_path / "results")) == 1


def test_a_progress_bar_does_not_make_another_run(tiny):
    first, again = (
        train(tiny("trainer.max_epochs=1")),
        train(tiny("trainer.max_epochs=1", "trainer.log_every_n_steps=7")),
    )
    assert again.run_id == first.run_id


def test_a_run_says_at_its_end_metric_memory_time_and_where_record_and_weights_lie(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record = train(compose_config(*TINY, "trainer.max_epochs=1"))
    metric, cost, where, weights = capsys.readouterr().out.splitlines()[-4:]
    assert f"test accuracy {record.final('accuracy', 'test'):.4g} %" in metric
    assert re.fullmatch(rf"peak memory {record.final('peak_allocated'):,.1f} MiB, time \d+ s", cost)
    assert where == f"record: results/custom/{record.run_id}.json" and Path(where.removeprefix("record: ")).is_file()
    assert Path(weights.removeprefix("checkpoint: ")).is_file() and weights.startswith("checkpoint: runs/custom/")


def test_an_interrupted_run_says_how_it_is_continued(tiny, add_callbacks, capsys):
    add_callbacks(At("on_train_batch_end", 7, sigterm))
    with pytest.raises(SIGTERMException):
        train(tiny())
    out = capsys.readouterr().out
    assert "interrupted: the same command continues\n" in out and "last.ckpt\n" in out
