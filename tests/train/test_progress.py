"""What a run shows while it trains: a bar, drawn now and then, or lines; and what its law costs."""

import re
import sys

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

import bdia.train.job
from bdia.build import build_task
from bdia.train.job import train
from bdia.train.progress import DrawnBar, Job, ProgressLines, duration, gamma_cost
from helpers.training_helpers import assert_same, checkpoint


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)


@pytest.fixture
def drawn(monkeypatch):
    """The batches after which the bar is drawn, by hook."""
    found = {}

    def note(hook):
        original = getattr(TQDMProgressBar, hook)

        def noted(self, trainer, pl_module, outputs, batch, batch_idx, *rest):
            found.setdefault(hook, []).append(batch_idx)
            original(self, trainer, pl_module, outputs, batch, batch_idx, *rest)

        monkeypatch.setattr(TQDMProgressBar, hook, noted)

    for hook in ("on_train_batch_end", "on_validation_batch_end", "on_test_batch_end"):
        note(hook)
    return found


@pytest.mark.parametrize(("seconds", "wanted"), [(1e9, [0, 4, 4, 4]), (0, [0, 1, 2, 3, 4] * 3)])
def test_the_bar_is_drawn_when_it_is_time_and_after_the_last_batch(seconds, wanted, tiny, terminal, drawn, monkeypatch):
    monkeypatch.setattr(bdia.train.job, "progress", lambda job: DrawnBar(seconds))
    train(tiny("trainer.enable_progress_bar=true"))
    assert drawn["on_train_batch_end"] == wanted
    assert drawn["on_validation_batch_end"][-1] == 0
    assert drawn["on_test_batch_end"][-1] == 0


@pytest.fixture
def pipe(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)


def test_off_a_terminal_lines_are_printed_and_nothing_is_drawn(tiny, drawn, pipe, monkeypatch, capsys):
    monkeypatch.setattr(bdia.train.job, "progress", lambda job: ProgressLines(job, seconds=0))
    train(tiny("trainer.enable_progress_bar=true", "trainer.max_epochs=2"), Job(2, 3))
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if "epoch" in line]
    assert len(lines) == 10  # batches
    assert lines[0] == "job 2 of 3: epoch 1 of 2"  # nothing is known yet
    for number, line in enumerate(lines[1:], start=1):
        assert re.fullmatch(rf"job 2 of 3: epoch {1 + number // 5} of 2, \d+ s left; all jobs: about \d+ s", line)
    assert lines[-1].split(", ")[1].startswith("0 s left")
    assert drawn == {} and "it/s" not in out + err


def test_between_two_lines_lies_some_time_and_the_last_batch_has_one(tiny, pipe, capsys):
    train(tiny("trainer.enable_progress_bar=true"))
    assert [line for line in capsys.readouterr().out.splitlines() if "epoch" in line] == ["epoch 3 of 3, 0 s left"]


def test_a_sweep_on_a_terminal_prints_lines_too(tiny, terminal, drawn, capsys):
    train(tiny("trainer.enable_progress_bar=true", "trainer.max_epochs=1"), Job(1, 2, in_turn=False))
    assert "job 1 of 2: epoch 1 of 1, 0 s left\n" in capsys.readouterr().out
    assert drawn == {}


def test_without_a_bar_none_is_made(tiny, drawn, pipe, capsys):
    train(tiny("trainer.max_epochs=1"))
    assert drawn == {} and "epoch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3599.6, "1 h 0 min")]
)
def test_times_are_said_in_units_that_fit(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("law", "cost"),
    [
        ("1/2", ""),
        ("1", ""),
        ("0.3", "gamma 3/10: 4 bits of side information per activation and block; 1/2 needs 1"),
        ("1/4", "gamma 1/4: 2 bits of side information per activation and block; 1/2 needs 1"),
    ],
)
def test_what_a_law_costs_is_said_where_it_is_more_than_one_bit(law, cost, tiny, caplog):
    net = build_task(tiny(f"stack.gamma={law}"), {"num_classes": 10}).net
    assert gamma_cost(net) == cost
    if cost:
        with caplog.at_level("INFO", logger="bdia"):
            train(tiny(f"stack.gamma={law}", "trainer.max_epochs=1"))
        assert cost in caplog.text


def test_stacks_without_a_law_cost_nothing(tiny):
    assert gamma_cost(build_task(tiny("stack=revvit"), {"num_classes": 10}).net) == ""


def test_the_bar_does_not_alter_training(tiny, terminal, tmp_path):
    with_bar, without = (
        tiny(f"trainer.enable_progress_bar={bar}", "trainer.max_epochs=1", f"paths.runs={tmp_path / bar}")
        for bar in ("true", "false")
    )
    for cfg in (with_bar, without):
        train(cfg)
    assert_same(checkpoint(with_bar)["state_dict"], checkpoint(without)["state_dict"])
