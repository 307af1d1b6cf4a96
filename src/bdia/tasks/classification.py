"""Image classification: cross-entropy and accuracy."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bdia import InvalidValueError
from bdia.tasks.mean import Mean
from bdia.tasks.task import Task

SPLITS = ("train", "val", "test")
Batch = tuple[Tensor, Tensor]  # images (B, C, height, width) float32, labels (B,) int64


class ImageClassification(Task):
    """Cross-entropy in nats and top-1 accuracy in %, per epoch and split.

    Args:
        label_smoothing: share of the probability spread evenly in the training loss; validation and test have none.
        arguments, settings: those of `Task`.
    """

    kind = "images"

    def __init__(self, *arguments: Any, label_smoothing: float = 0.0, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if not 0 <= label_smoothing < 1:
            raise InvalidValueError(
                f"label_smoothing={label_smoothing}: wanted at least 0 and below 1; set model.label_smoothing"
            )
        self.label_smoothing = label_smoothing
        self.metrics.update({f"{split}/{name}": Mean() for split in SPLITS for name in ("loss", "accuracy")})

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, nat, label smoothing included."""
        return self._outcome(batch, self.label_smoothing)[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of one training batch."""
        return self._step(batch, "train", self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log one validation batch."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log one test batch."""
        self._step(batch, "test")

    def _outcome(self, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self.net(images)
        return F.cross_entropy(logits, labels, label_smoothing=smoothing), logits

    def _step(self, batch: Batch, split: str, smoothing: float = 0.0) -> Tensor:
        (loss, logits), labels = self._outcome(batch, smoothing), batch[1]
        accuracy = (logits.argmax(dim=1) == labels).float().mean() * 100
        self.log_metric(f"{split}/loss", loss.detach(), len(labels))
        self.log_metric(f"{split}/accuracy", accuracy, len(labels))
        return loss
