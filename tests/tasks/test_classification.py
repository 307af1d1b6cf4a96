"""Cross-entropy in nats, accuracy in per cent, means over samples."""

import math

import pytest
import torch
from torch import nn

from bdia import InvalidValueError
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


@pytest.mark.parametrize(
    ("step", "smoothing"), [("training_step", 0.2), ("loss", 0.2), ("validation_step", 0.0), ("test_step", 0.0)]
)
def test_label_smoothing_changes_the_training_loss_alone(step, smoothing, monkeypatch):
    logits, labels = torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, 0.5]]), torch.tensor([0, 2])
    task = ImageClassification(Fixed(logits.tolist()), None, None, label_smoothing=0.2)
    logged = {}
    monkeypatch.setattr(task, "log_metric", lambda name, value, weight: logged.update({name: value}))
    batch = (torch.zeros(2, 3, 32, 32), labels)
    loss = task.loss(batch) if step == "loss" else getattr(task, step)(batch, 0)
    found = next((value for name, value in logged.items() if name.endswith("/loss")), loss)
    target = (1 - smoothing) * torch.nn.functional.one_hot(labels, 3) + smoothing / 3
    assert found.item() == pytest.approx(-(target * logits.log_softmax(dim=1)).sum(dim=1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_label_smoothing_that_is_no_share_is_refused_with_its_key(value):
    with pytest.raises(InvalidValueError, match=rf"label_smoothing={value}: wanted .* set model\.label_smoothing"):
        ImageClassification(Fixed([[0.0]]), None, None, label_smoothing=value)


def test_the_test_accuracy_counts_whole_images(tiny):
    record = train(tiny("trainer.max_epochs=1", "data.eval_batch_size=100"))  # the last batch is a short one
    images = record.final("accuracy", "test") / 100 * 359  # size of the digits' test set
    assert images == pytest.approx(round(images), abs=1e-3)
    assert math.isfinite(record.final("loss", "test"))
