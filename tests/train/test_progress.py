"""The progress bar costs a drawing now and then."""

import sys

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

import bdia.train.job
from bdia.train.job import train
from bdia.train.progress import ProgressBar
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
    monkeypatch.setattr(bdia.train.job, "ProgressBar", lambda: ProgressBar(seconds))
    train(tiny("trainer.enable_progress_bar=true"))
    assert drawn["on_train_batch_end"] == wanted
    assert drawn["on_validation_batch_end"][-1] == 0
    assert drawn["on_test_batch_end"][-1] == 0


def test_off_a_terminal_nothing_is_drawn_and_without_a_bar_none_is_made(tiny, drawn, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    train(tiny("trainer.enable_progress_bar=true", "trainer.max_epochs=1"))
    assert drawn == {}


def test_the_bar_does_not_alter_training(tiny, terminal, tmp_path):
    with_bar, without = (
        tiny(f"trainer.enable_progress_bar={bar}", "trainer.max_epochs=1", f"paths.runs={tmp_path / bar}")
        for bar in ("true", "false")
    )
    for cfg in (with_bar, without):
        train(cfg)
    assert_same(checkpoint(with_bar)["state_dict"], checkpoint(without)["state_dict"])
