"""Runs of two devices: two gloo processes on this machine, through `bdia train`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bdia import InvalidValueError, UnsupportedError
from bdia.build import check_run, compose, load_run
from bdia.train.checkpoints import WholeCheckpointIO
from bdia.train.devices import must_start
from helpers.training_helpers import assert_same

needs_gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
IMAGES = "data=digits model=vit_demo optimizer=adamw +trainer.max_steps=5 trainer.max_epochs=1 data.batch_size=32"
TEXT = (
    "data=pydoc model=gpt2_demo tokenizer@data.tokenizer=bytes optimizer=adamw "
    "+trainer.max_steps=5 trainer.max_epochs=1"
)
TRANSLATION = (
    "data=numbers model=seq2seq_demo optimizer=adamw data.source.train=400 data.source.val=40 data.source.test=40 "
    "model.beam=2 data.eval_token_budget=300 data.token_budget=300 +trainer.max_steps=5 trainer.max_epochs=1"
)
PROMPTS = (
    "data=restaurants model=gpt2_prompts_demo optimizer=adamw data.source.train=60 data.token_budget=512 "
    "data.eval_token_budget=512 +trainer.max_steps=5 trainer.max_epochs=1 model.new_tokens=20"
)
LIMITS = "+trainer.limit_val_batches=2 +trainer.limit_test_batches=2"
SMALL = "logger=csv trainer.accelerator=cpu"


def command(folder, *choices, limits=LIMITS):
    words = " ".join((*choices, limits, SMALL)).split()
    return [sys.executable, "-m", "bdia.train", *words, f"paths.runs={folder}/runs", f"paths.results={folder}/results"]


def environment():
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "SLURM_PROCID")}
    return kept | {"OMP_NUM_THREADS": "1"}


def trained(folder, *choices, limits=LIMITS):
    """Run to the end; returns the only record and the checkpoint."""
    done = subprocess.run(
        command(folder, *choices, limits=limits), env=environment(), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return outcome(folder)


def outcome(folder):
    (record,) = (folder / "results").glob("*/*.json")
    (checkpoint,) = (folder / "runs").glob("*/*/final.ckpt")
    return json.loads(record.read_text()), WholeCheckpointIO().load_checkpoint(checkpoint, weights_only=True)


def assert_same_training(found, wanted):
    losses = [
        [(row["split"], row["value"]) for row in record["metrics"] if row["name"] == "loss"]
        for record, _ in (found, wanted)
    ]
    assert losses[0] == losses[1]
    assert losses[0]
    weights, others = found[1]["state_dict"], wanted[1]["state_dict"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@needs_gloo
def test_two_processes_train_a_reversible_model_as_a_stored_one_bit_for_bit(tmp_path):
    two = f"{IMAGES} stack=bdia trainer.devices=2 trainer.strategy=ddp"
    found = trained(tmp_path / "reversible", two)
    assert_same_training(found, trained(tmp_path / "stored", two, "stack.backward=stored"))
    record = found[0]
    peaks = {row.get("split"): row["value"] for row in record["metrics"] if row["name"] == "peak_allocated"}
    assert record["device"]["count"] == 2
    assert peaks[None] == max(peaks["rank 0"], peaks["rank 1"])


@pytest.mark.slow
@needs_gloo
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "run",
    [
        IMAGES,
        TEXT,
        TRANSLATION,
        PROMPTS,
        f"{TEXT} trainer.accumulate_grad_batches=2",
        f"{TEXT} trainer.precision=bf16-mixed",
        f"{TEXT} trainer.gradient_clip_val=0.1",
        TEXT.replace("adamw", "set_adam"),
    ],
    ids=["images", "text", "translation", "prompts", "accumulated", "bf16", "clipped", "set_adam"],
)
def test_each_strategy_trains_a_reversible_model_as_a_stored_one_bit_for_bit(tmp_path, strategy, run):
    two = f"{run} stack=bdia trainer.devices=2 trainer.strategy={strategy}"
    found = trained(tmp_path / "reversible", two)
    assert_same_training(found, trained(tmp_path / "stored", two, "stack.backward=stored"))


@pytest.mark.slow
@needs_gloo
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("run", [TRANSLATION, PROMPTS], ids=["translation", "prompts"])
def test_two_processes_test_every_item_once_as_one_process_does(tmp_path, strategy, run):
    run = f"{run.replace('+trainer.max_steps=5', '')} stack=bdia"
    wanted = held_out(trained(tmp_path / "one", run, "optimizer.lr=3e-3", limits="")[0])
    (weights,) = (tmp_path / "one" / "runs").glob("*/*/final.ckpt")
    again = f"optimizer.lr=0 +weights.from={weights} trainer.devices=2 trainer.strategy={strategy}"
    found = held_out(trained(tmp_path / "two", run, again, "+trainer.limit_train_batches=2", limits="")[0])
    assert {("loss", "val"), ("loss", "test"), ("bleu", "test"), ("chrf", "test")} <= found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, rel=1e-6)
    assert found["chrf", "test"] == wanted["chrf", "test"] > 0  # an output is the same text, or it is not


def held_out(record):
    return {
        (row["name"], row["split"]): row["value"] for row in record["metrics"] if row.get("split") in ("val", "test")
    }


@pytest.mark.slow
@needs_gloo
def test_a_checkpoint_in_shares_holds_what_one_file_holds(tmp_path):
    run = f"{TEXT} stack=bdia trainer.devices=2 trainer.strategy=fsdp2"
    _, wanted = trained(tmp_path / "file", run)
    _, found = trained(tmp_path / "shares", run, "callbacks.checkpoint.sharded=true")
    assert list((tmp_path / "shares" / "runs").glob("*/*/final.ckpt/__1_*.distcp"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_same(found[part], wanted[part], part)
    (folder,) = (tmp_path / "shares" / "runs").glob("*/*/final.ckpt")
    task = load_run(folder)
    assert all(torch.equal(value, wanted["state_dict"][name]) for name, value in task.state_dict().items())


@pytest.mark.slow
@needs_gloo
def test_gradients_that_are_exchanged_late_train_a_reversible_model_as_a_stored_one_bit_for_bit(tmp_path):
    two = f"{TEXT} stack=bdia trainer.accumulate_grad_batches=2 trainer.devices=2 trainer.strategy="
    found = trained(tmp_path / "reversible", f"{two}fsdp2_no_sync")
    assert_same_training(found, trained(tmp_path / "stored", f"{two}fsdp2_no_sync", "stack.backward=stored"))
    _, early = trained(tmp_path / "early", f"{two}fsdp2")
    for name, weight in found[1]["state_dict"].items():
        torch.testing.assert_close(weight, early["state_dict"][name], rtol=1e-3, atol=1e-4)  # sums in another order


@pytest.mark.slow
@needs_gloo
@pytest.mark.parametrize("sharded", [False, True])
def test_a_sharded_training_goes_on_on_one_device(tmp_path, sharded):
    two = f"stack=bdia trainer.devices=2 trainer.strategy=fsdp2 callbacks.checkpoint.sharded={sharded}"
    _, checkpoint = trained(tmp_path / "two", TEXT, two)
    (written,) = (tmp_path / "two" / "runs").glob("*/*/final.ckpt")
    assert written.is_dir() == sharded
    trained(tmp_path / "one", TEXT, "stack=bdia")
    (last,) = (tmp_path / "one" / "runs").glob("*/*/final.ckpt")
    (last.parent / "record.json").unlink()
    for file in (tmp_path / "one" / "results").glob("*/*.json"):
        file.unlink()
    last.unlink()
    written.rename(last)
    assert all(torch.is_tensor(state["exp_avg"]) for state in checkpoint["optimizer_states"][0]["state"].values())
    _, found = trained(tmp_path / "one", TEXT, "stack=bdia")
    assert found["global_step"] == checkpoint["global_step"] == 5
    weights = checkpoint["state_dict"]
    assert all(torch.equal(weights[name], found["state_dict"][name]) for name in weights)


@pytest.mark.slow
@needs_gloo
@pytest.mark.parametrize(
    ("strategy", "optimizer", "signum"),
    [
        ("ddp", "adamw", signal.SIGTERM),
        ("ddp", "adamw", signal.SIGUSR2),
        ("fsdp2", "adamw", signal.SIGTERM),
        ("fsdp2 callbacks.checkpoint.sharded=true", "set_adam", signal.SIGTERM),
        ("fsdp2_no_sync", "set_adam", signal.SIGTERM),
    ],
)
def test_a_stopped_run_of_two_processes_goes_on_exactly(tmp_path, strategy, optimizer, signum):
    run = TEXT.replace("max_steps=5", "max_steps=40").replace("adamw", optimizer)
    choices = [run, f"stack=bdia trainer.accumulate_grad_batches=2 trainer.devices=2 trainer.strategy={strategy}"]
    wanted = trained(tmp_path / "whole", *choices)
    folder = tmp_path / "stopped"
    process = subprocess.Popen(command(folder, *choices), env=environment(), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "step" in line or "epoch" in line:
            break
    time.sleep(1.0)
    # SIGTERM as a user sends it; SIGUSR2 as SLURM does, to the processes themselves: here to one, and both end
    os.kill(process.pid if signum == signal.SIGTERM else last_child_of(process.pid), signum)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    assert list((folder / "runs").glob("*/*/last.ckpt"))
    for record in (folder / "results").glob("*/*.json"):
        assert json.loads(record.read_text())["status"] == "interrupted"
        record.unlink()
    assert_same_training(trained(folder, *choices), wanted)


def last_child_of(pid):
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("trainer.devices=2", r"strategy=auto with 2 devices.*ddp.*fsdp2"),
        ("trainer.devices=auto", r"trainer\.devices=auto.*number"),
        ("trainer.strategy=ddp", r"strategy=ddp with one device"),
        ("trainer.devices=2 trainer.strategy=fsdp2_no_sync", r"fsdp2_no_sync.*accumulate_grad_batches above 1"),
        ("trainer.devices=2 trainer.strategy=ddp optimizer.in_backward=true", r"in_backward=true with 2 devices"),
        ("trainer.devices=2 trainer.strategy=ddp stack=bdia stack.bits=auto", r"bits=auto with 2 devices.*own grid"),
    ],
)
def test_what_several_devices_cannot_do_is_refused_by_name(choices, message):
    with pytest.raises(InvalidValueError, match=message):
        check_run(compose(["data=digits", "model=vit_demo", *choices.split()]))


def test_several_nodes_need_a_launcher(monkeypatch):
    trainer = {"devices": 2, "num_nodes": 2}
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnsupportedError, match=r"num_nodes=2.*srun"):
        must_start(trainer)
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert not must_start(trainer)
