"""Cross-entropy in nats, accuracy in per cent, means over samples."""

import math

import pytest
import torch
from torch import nn

from bdia.tasks import ImageClassification
from bdia.train.job import train


class Fixed(nn.Module):
    """The same logits whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images):
        return self.logits


@pytest.mark.parametrize(
    ("step", "split"), [("training_step", "train"), ("validation_step", "val"), ("test_step", "test")]
)
def test_loss_is_the_mean_cross_entropy_in_nats_and_accuracy_in_per_cent(step, split, monkeypatch):
    task = ImageClassification(Fixed([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), None, None)
    logged = {}
    monkeypatch.setattr(task, "log_metric", lambda name, value, weight: logged.update({name: value, "weight": weight}))
    loss = getattr(task, step)((torch.zeros(4, 3, 32, 32), torch.tensor([0, 0, 0, 0])), 0)
    wanted = (2 * math.log(2) + math.log1p(math.exp(-9)) + 9 + math.log1p(math.exp(-9))) / 4
    assert logged[f"{split}/loss"].item() == pytest.approx(wanted, rel=1e-6)
    assert logged[f"{split}/accuracy"].item() == 75
    assert logged["weight"] == 4
    assert not logged[f"{split}/loss"].requires_grad
    assert (loss is not None) == (step == "training_step")
    if loss is not None:
        loss.backward()
        assert task.net.logits.grad.abs().sum() > 0


def test_the_test_accuracy_counts_whole_images(tiny):
    record = train(tiny("trainer.max_epochs=1", "data.eval_batch_size=100"))  # the last batch is a short one
    images = record.final("accuracy", "test") / 100 * 359  # size of the digits' test set
    assert images == pytest.approx(round(images), abs=1e-3)
    assert math.isfinite(record.final("loss", "test"))
