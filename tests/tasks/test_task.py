"""What every task shares: the schedule's length, one seed per batch, no gradient kept between steps."""

import torch
from lightning.pytorch import Callback

from bdia.build import build_task
from bdia.train import train
from training_helpers import assert_same, checkpoint


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
