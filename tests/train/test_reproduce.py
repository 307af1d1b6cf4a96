"""`make reproduce-*`: the scale chosen, what is said before the start, the command that is run."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import bdia.train.reproduce
from bdia.build import CONFIGS, build_data
from bdia.data.errors import DataNotFoundError
from bdia.data.images.cifar import CifarDataModule
from bdia.train.reproduce import (
    RECIPES,
    SCALES,
    choose_scale,
    estimate_minutes,
    job_config,
    main,
    run,
    run_sweep,
    seconds_per_step,
    sweep_command,
    sweep_of,
)


@pytest.mark.parametrize(
    ("asked", "has_gpu", "scale"), [(None, True, "paper"), (None, False, "cpu"), ("smoke", True, "smoke")]
)
def test_without_a_wish_the_machine_decides_and_the_reason_is_said(asked, has_gpu, scale):
    found, why = choose_scale(asked, has_gpu)
    assert found == scale
    assert ("GPU" in why) == (asked is None)


def test_an_unknown_scale_is_one_clear_error(capsys):
    with pytest.raises(SystemExit, match=r"SCALE=huge: wanted one of paper, cpu, smoke"):
        main(["cifar10", "--scale", "huge"])


def test_a_mistyped_data_folder_is_one_clear_error_and_is_not_created(tmp_path):
    with pytest.raises(SystemExit, match=r"DATA=.*typo: no such folder"):
        main(["cifar10", "--data-dir", str(tmp_path / "typo")])
    assert not (tmp_path / "typo").exists()


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="SEEDS=0"):
        run("cifar10", "smoke", 0, None)


def test_the_sweep_names_experiment_seeds_and_jobs(tmp_path):
    command = sweep_command("table1_cifar10_cpu", 2, 3, tmp_path)
    assert command[:3] == [sys.executable, "-m", "bdia.train"]
    assert {"experiment=table1_cifar10_cpu", "hydra.sweeper.params.seed='0,1'", "hydra.launcher.n_jobs=3"} <= {*command}
    assert "hydra/launcher=joblib" not in sweep_command("table1_cifar10", 2, 1, tmp_path)


def test_the_estimate_counts_every_variants_steps_and_grows_with_seeds_and_shrinks_with_jobs(monkeypatch):
    monkeypatch.setattr(bdia.train.reproduce, "seconds_per_step", lambda *_: 0.6)
    data = SimpleNamespace(train_dataloader=lambda: range(8))
    steps = 3 * 8 * 2  # stacks x batches x epochs
    assert estimate_minutes("table1_cifar10_smoke", data, 1, "cpu", 1) == pytest.approx(steps * 0.6 / 60)
    assert estimate_minutes("table1_cifar10_smoke", data, 3, "cpu", 2) == pytest.approx(steps * 0.6 / 60 * 3 / 2)


@pytest.mark.parametrize(
    ("experiment", "kind"),
    [("translation_smoke", "data.source.train=60"), ("gpt2_smoke", "data.fraction=0.05"), ("demo", "seed=0")],
)
def test_a_step_is_timed_on_batches_of_every_kind_of_data(experiment, kind, places, one_thread):
    cfg = job_config(experiment, ["stack=bdia", kind, *places])
    data = build_data(cfg)
    data.setup()
    assert seconds_per_step(cfg, data, "cpu", repeats=1) > 0


def test_a_recipes_variants_are_its_sweep_without_the_seeds():
    assert len(sweep_of("gpt2_cpu")) == 4
    assert ["stack=bdia", "model.net.dropout=0.3"] in sweep_of("gpt2_cpu")
    assert sweep_of("table1_cifar10") == [["stack=standard"], ["stack=revvit"], ["stack=bdia"]]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_recipe_has_an_experiment_and_a_make_target_at_every_scale(recipe, scale):
    experiment = RECIPES[recipe] + ("" if scale == "paper" else f"_{scale}")
    assert (CONFIGS / "experiment" / f"{experiment}.yaml").exists()
    assert f"\nreproduce-{recipe}:" in (CONFIGS.parent / "Makefile").read_text()


def test_data_that_is_missing_ends_the_command_before_anything_runs(tmp_path, monkeypatch, capsys):
    def unreachable(self):
        raise DataNotFoundError("no network here")

    monkeypatch.setattr(CifarDataModule, "prepare_data", unreachable)
    monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("a sweep was started"))
    monkeypatch.setenv("BDIA_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="error: no network here"):
        main(["cifar10", "--scale", "smoke", "--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_scale_reason_and_minutes_are_said_before_the_sweep_starts(tmp_path, monkeypatch, capsys):
    images = np.zeros((100, 3, 32, 32), np.uint8), np.arange(100) % 10
    monkeypatch.setattr(CifarDataModule, "prepare_data", lambda self: None)
    monkeypatch.setattr(CifarDataModule, "load", lambda self: (images, images))
    monkeypatch.setattr(CifarDataModule, "setup", lambda self: None)
    monkeypatch.setattr(bdia.train.reproduce, "estimate_minutes", lambda *_: 7.0)
    said = []
    monkeypatch.setattr(bdia.train.reproduce, "run_sweep", lambda *_, **__: said.append(capsys.readouterr().out) or 0)
    assert run("cifar10", "cpu", 1, tmp_path / "results") == 0
    assert "scale cpu: SCALE=cpu was asked for. 3 variants x 1 seeds" in said[0]
    assert "about 7.0 minutes" in said[0]


def test_the_sweeps_exit_code_is_handed_on():
    assert run_sweep([sys.executable, "-c", "raise SystemExit(3)"], one_thread=True) == 3


def test_sigterm_reaches_the_jobs_of_the_sweep(tmp_path):
    job = "import signal,sys,time,pathlib;" + (
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1]).write_text('saved'), sys.exit(143)));"
        "pathlib.Path(sys.argv[2]).write_text('up'); time.sleep(60)"
    )
    saved, up = tmp_path / "saved", tmp_path / "up"

    def end_once_up():
        while not up.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=end_once_up, daemon=True).start()
    assert run_sweep([sys.executable, "-c", job, str(saved), str(up)], one_thread=True) == 143
    assert saved.read_text() == "saved"
    assert signal.getsignal(signal.SIGTERM) is before
