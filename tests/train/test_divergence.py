"""A loss that is not finite ends the run as "diverged", at the same batch for every stack."""

import math

import pytest
import torch

from bdia import BdiaError
from bdia.callbacks import DivergedError, Divergence
from bdia.results import gather, read_records
from bdia.results.report import table_text
from bdia.train.job import train
from helpers.training_helpers import rows, statuses

STACKS = ["standard", "checkpoint", "checkpoint_two_level", "revvit", "bdia"]


@pytest.fixture
def spoiled(monkeypatch):
    """From the 7th batch on the loss is what is asked for."""

    def spoil(value):
        from bdia.tasks import ImageClassification

        real, calls = ImageClassification.training_step, []

        def training_step(self, batch, batch_idx):
            calls.append(1)
            loss = real(self, batch, batch_idx)
            return loss * value if len(calls) >= 7 else loss

        monkeypatch.setattr(ImageClassification, "training_step", training_step)

    return spoil


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("stack", STACKS)
def test_a_loss_that_is_not_finite_ends_every_stacks_run_at_its_batch(tiny, spoiled, stack, value):
    spoiled(value)
    cfg = tiny(f"stack={stack}")
    with pytest.raises(DivergedError, match=r"batch 7 is (nan|inf)\. Lower optimizer\.lr"):
        train(cfg)
    assert statuses(cfg) == ["diverged"]
    (record,) = read_records(cfg.paths.results)
    assert "batch 7" in record.error
    assert ("loss", "train", 5) in rows(record)  # the epoch before is kept


@pytest.mark.parametrize("stack", STACKS)
def test_a_learning_rate_without_bound_diverges_on_every_stack(tiny, stack, capsys):
    cfg = tiny(f"stack={stack}", "optimizer.lr=1000", "optimizer=adamw", "trainer.max_epochs=40")
    with pytest.raises(BdiaError):
        train(cfg)
    assert statuses(cfg) == ["diverged"]
    assert "diverged" in capsys.readouterr().out


def test_a_diverged_run_is_told_and_is_no_part_of_a_mean(tiny, spoiled):
    cfg = tiny()
    train(cfg)
    spoiled(math.nan)
    other = tiny("seed=1")
    with pytest.raises(DivergedError):
        train(other)
    records = read_records(cfg.paths.results)
    (experiment,) = gather(records)
    assert experiment.outcome(experiment.variants[0]).n == 1
    text = table_text(records)
    assert (
        "1 ok, 1 diverged" in text and "seed 1: diverged: DivergedError: diverged: the training loss of batch 7" in text
    )


def test_the_first_bad_batch_is_named_however_late_it_is_looked_at(monkeypatch):
    callback, looks = Divergence(), []
    monkeypatch.setattr(callback, "_look", lambda: looks.append(1))

    class Trainer:
        class fit_loop:
            class epoch_loop:
                class batch_progress:
                    class total:
                        ready = 0

    total = Trainer.fit_loop.epoch_loop.batch_progress.total
    for total.ready in range(1, 120):
        loss = torch.tensor(math.nan if total.ready == 33 else 1.0)
        callback.on_train_batch_end(Trainer, None, {"loss": loss}, None, 0)
    assert len(looks) == 119  # on a CPU every time
    monkeypatch.undo()
    with pytest.raises(DivergedError, match="batch 33 is nan"):
        callback.on_train_epoch_end(Trainer, None)
