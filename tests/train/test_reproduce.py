"""`bdia reproduce`: the scale chosen, what is said before the start, the command that is run."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import bdia.train.launch
import bdia.train.reproduce
from bdia.build import CONFIGS, compose, quoted
from bdia.cli.main import main
from bdia.train.reproduce import (
    RECIPES,
    SCALES,
    choose_scale,
    estimate_minutes,
    reproduce,
    run_sweep,
    sweep_command,
    sweep_of,
)
from bdia.train.studies import overrides_of


@pytest.mark.parametrize(
    ("asked", "has_gpu", "scale"), [(None, True, "paper"), (None, False, "cpu"), ("smoke", True, "smoke")]
)
def test_without_a_wish_the_machine_decides_and_the_reason_is_said(asked, has_gpu, scale):
    found, why = choose_scale(asked, has_gpu)
    assert found == scale
    assert ("GPU" in why) == (asked is None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipe=cifar10", "scale=huge"], "scale=huge: wanted one of paper, cpu, smoke; set scale"),
        (["recipe=mnist"], "recipe=mnist: wanted one of cifar10, cifar100, translation, gpt2; set recipe"),
        (["recipe=cifar10", "scale=smoke", "seeds=0"], "seeds=0: wanted at least 1; set seeds"),
        (["recipe=cifar10", "seed=1"], "seed=1: wanted seeds=1"),
        (["scale=cpu"], "recipe is missing: wanted recipe=..., see --help"),
    ],
)
def test_what_cannot_be_reproduced_is_one_clear_error(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", *arguments])
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_mistyped_data_folder_is_one_clear_error_and_is_not_created(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "recipe=cifar10", f"data={tmp_path / 'typo'}"])
    assert f"error: data={tmp_path / 'typo'}: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_the_sweep_names_experiment_seeds_and_jobs(tmp_path):
    command = sweep_command("table1_cifar10", "cpu", 2, 3, tmp_path)
    assert command[:3] == [sys.executable, "-m", "bdia.train"]
    assert {
        "experiment=table1_cifar10",
        "scale/cifar10=cpu",
        "hydra.sweeper.params.seed='0,1'",
        "hydra.launcher.n_jobs=3",
    } <= {*command}
    assert "hydra/launcher=joblib" not in sweep_command("table1_cifar10", "paper", 2, 1, tmp_path)


def test_the_estimate_counts_every_variants_steps_and_grows_with_seeds_and_shrinks_with_jobs(monkeypatch):
    monkeypatch.setattr(bdia.train.reproduce, "seconds_per_step", lambda *_: 0.6)
    variants = sweep_of("table1_cifar10", "smoke")
    data = SimpleNamespace(train_dataloader=lambda: range(8))
    steps = 3 * 8 * 2  # stacks x batches x epochs
    assert estimate_minutes(variants, data, 1, "cpu", 1) == pytest.approx(steps * 0.6 / 60)
    assert estimate_minutes(variants, data, 3, "cpu", 2) == pytest.approx(steps * 0.6 / 60 * 3 / 2)


def test_a_recipes_variants_are_its_sweep_without_the_seeds():
    assert len(sweep_of("gpt2", "cpu")) == 4
    scale = ["experiment=gpt2", "scale/gpt2=cpu"]
    assert ["stack=bdia", "model.net.dropout=0.3", *scale] in sweep_of("gpt2", "cpu")
    assert [words[0] for words in sweep_of("table1_cifar10", "paper")] == [
        "stack=standard",
        "stack=revvit",
        "stack=bdia",
    ]


def test_a_range_in_a_recipes_sweep_is_a_variant_for_each_value(monkeypatch):
    def with_ranges(overrides, **more):
        cfg = compose(overrides, **more)
        if more:
            cfg.hydra.sweeper.params = {"seed": "range(3)", "stack.bits": "range(7,10)"}
        return cfg

    monkeypatch.setattr(bdia.train.launch, "compose", with_ranges)
    assert [words[0] for words in sweep_of("bits_cifar10", "smoke")] == ["stack.bits=7", "stack.bits=8", "stack.bits=9"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_recipe_has_an_experiment_and_a_make_target_at_every_scale(recipe, scale):
    assert compose(overrides_of(RECIPES[recipe], scale)).name == f"{RECIPES[recipe]}_{scale}"
    assert f"\nreproduce-{recipe}:" in (CONFIGS.parent / "Makefile").read_text()


@pytest.mark.parametrize("folder", ["a b", "a,b", "lr=3", "#1", "été", "(new)", "it's", "a'b\\", "[x]", "{x}"])
def test_the_sweeps_folder_is_one_value_to_hydra_whatever_its_name(folder):
    override = next(
        word for word in sweep_command("gpt2", "smoke", 1, 1, Path(folder)) if word.startswith("paths.results=")
    )
    read = OverridesParser.create().parse_override(override)
    assert not read.is_sweep_override() and read.value() == folder
    assert quoted([override]) == [override]


@pytest.mark.parametrize("given", ['it\'s a "folder"', "a$HOME", "a $(HOME) `b`", "a (1) #2", "données"])
def test_make_hands_a_folder_on_as_it_was_typed(given, tmp_path):
    """The recipe's command is replaced by one that prints its arguments."""
    makefile = (CONFIGS.parent / "Makefile").read_text()
    assert "$(BIN)/bdia reproduce" in makefile
    (tmp_path / "Makefile").write_text(
        makefile.replace("$(BIN)/bdia reproduce", "@printf '%s\\n'").replace(
            "reproduce-cifar10: setup", "reproduce-cifar10:"
        )
    )
    command = ["make", "--no-print-directory", "reproduce-cifar10"]
    typed = subprocess.run([*command, f"DATA={given}"], cwd=tmp_path, capture_output=True, text=True, check=True)
    exported = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ | {"DATA": given}
    )
    assert typed.stdout.splitlines()[-1] == exported.stdout.splitlines()[-1] == f"data={given}"


@pytest.fixture
def digits(monkeypatch):
    """A recipe whose smoke scale has embedded data; its sweep is not run, but noted."""
    monkeypatch.setitem(RECIPES, "digits", "table1_cifar10")
    started = []
    monkeypatch.setattr(bdia.train.reproduce, "run_sweep", lambda command, one_thread: started.append(command) or 0)
    return started


def test_missing_data_end_the_command_before_anything_runs(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BDIA_DATA", str(tmp_path))  # an empty folder
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "recipe=translation", "scale=cpu", f"results={tmp_path / 'results'}"])
    assert re.match(r"error: \S+ was not found \(looked for ", capsys.readouterr().err)
    assert digits == [] and not (tmp_path / "results").exists()


def test_scale_reason_and_minutes_are_said_before_the_sweep_starts(digits, tmp_path, monkeypatch, capsys):
    assert reproduce("digits", "smoke", 2, tmp_path / "results") == 0
    text, (command,) = capsys.readouterr().out, digits
    assert text.startswith("scale smoke: scale=smoke was asked for. 3 variants x 2 seeds on ")
    assert re.search(r"about (\d+ s|\d+ min \d+ s) of training steps", text)
    assert "experiment=table1_cifar10" in command and f"paths.results={tmp_path / 'results'}" in command


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
