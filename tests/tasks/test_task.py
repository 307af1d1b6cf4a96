"""What every task shares: the schedule's length, one seed per batch, no gradient kept between steps."""

import traceback

import pytest
import torch
from lightning.pytorch import Callback

from bdia.build import build_task
from bdia.tasks import ImageClassification
from bdia.train.job import train
from helpers.training_helpers import assert_same, checkpoint


class Seeds(Callback):
    """The seed that torch has while each batch is trained."""

    def __init__(self):
        self.seeds = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.seeds.append(torch.initial_seed())


class DrawNumbers(Callback):
    """Spoil torch's generator."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.rand(3)


def test_every_batch_has_its_own_seed_and_every_run_others(tiny, add_callbacks):
    seen = []
    for seed in (0, 0, 1):
        spy = Seeds()
        add_callbacks(spy)
        train(tiny("trainer.max_epochs=2", f"seed={seed}", "rerun=true"))
        seen.append(spy.seeds)
    assert len(seen[0]) > 0
    assert seen[0] == seen[1]
    assert not set(seen[0]) & set(seen[2])
    assert len(set(seen[0])) == 10


def test_the_weights_do_not_depend_on_random_numbers_drawn_elsewhere(tiny, add_callbacks, tmp_path):
    alone, disturbed = (tiny("trainer.max_epochs=2", f"paths.runs={tmp_path / name}") for name in ("a", "b"))
    train(alone)
    add_callbacks(DrawNumbers())
    train(disturbed)
    assert_same(checkpoint(disturbed)["state_dict"], checkpoint(alone)["state_dict"])


def test_the_cosine_reaches_zero_with_the_last_optimizer_step(tiny):
    cfg = tiny("trainer.accumulate_grad_batches=2")  # 5 batches, so 3 steps an epoch
    rates = train(cfg).curve("lr", "train")
    assert [row.step for row in rates] == [3, 6, 9]
    assert rates[-1].value == 0 < rates[-2].value


def test_no_gradient_outlives_its_optimizer_step(tiny, add_callbacks):
    left = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            left.append([name for name, p in pl_module.named_parameters() if p.grad is not None])

    add_callbacks(Look())
    train(tiny("trainer.max_epochs=1"))
    assert left == [[]] * 5


def test_frozen_parameters_are_not_handed_to_the_optimizer(tiny):
    task = build_task(tiny(), {"num_classes": 10})
    task.net.cls_token.requires_grad_(False)
    task.trainer = type("FakeTrainer", (), {"estimated_stepping_batches": 10})()
    handed = task.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert len(handed) == len(list(task.parameters())) - 1
    assert not any(p is task.net.cls_token for p in handed)


def test_lightning_is_told_of_a_metric_once_an_epoch(tiny, monkeypatch):
    told, log = [], ImageClassification.log

    def tell(self, name, *arguments, **settings):
        told.append(name)
        log(self, name, *arguments, **settings)

    monkeypatch.setattr(ImageClassification, "log", tell)
    record = train(tiny("trainer.max_epochs=2"))
    assert sorted(told) == sorted(
        [f"{split}/{name}" for split in ("train", "train", "val", "val", "test") for name in ("loss", "accuracy")]
    )
    assert [row.step for row in record.curve("loss", "train")] == [5, 10]


def test_an_epochs_training_loss_is_the_mean_over_its_samples(tiny, add_callbacks):
    seen = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((outputs["loss"].item(), len(batch[0])))

    add_callbacks(Losses())
    record = train(tiny("trainer.max_epochs=2", "data.batch_size=15"))  # 15, 15 and 10 images
    assert [size for _, size in seen] == [15, 15, 10] * 2
    wanted = [sum(loss * size for loss, size in epoch) / 40 for epoch in (seen[:3], seen[3:])]
    assert [row.value for row in record.curve("loss", "train")] == pytest.approx(wanted, rel=1e-6)


def test_seeding_a_batch_does_not_look_at_the_call_stack(tiny, monkeypatch, add_callbacks):
    looked = []

    class Watch(Callback):  # its hook comes before the task's, which seeds
        def on_train_batch_start(self, *_):
            monkeypatch.setattr(traceback, "format_stack", lambda *_: looked.append("format_stack") or [])

    add_callbacks(Watch())
    train(tiny("trainer.max_epochs=1", "stack=standard"))
    assert looked == []
