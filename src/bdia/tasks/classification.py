"""Image classification: cross-entropy and accuracy."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bdia.tasks.mean import Mean
from bdia.tasks.task import Task

SPLITS = ("train", "val", "test")
Batch = tuple[Tensor, Tensor]  # images (B, C, height, width) float32, labels (B,) int64


class ImageClassification(Task):
    """Cross-entropy in nats and top-1 accuracy in %, per epoch and split."""

    kind = "images"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.metrics.update({f"{split}/{name}": Mean() for split in SPLITS for name in ("loss", "accuracy")})

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, nat."""
        return self._outcome(batch)[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of one training batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log one validation batch."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log one test batch."""
        self._step(batch, "test")

    def _outcome(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self.net(images)
        return F.cross_entropy(logits, labels), logits

    def _step(self, batch: Batch, split: str) -> Tensor:
        (loss, logits), labels = self._outcome(batch), batch[1]
        accuracy = (logits.argmax(dim=1) == labels).float().mean() * 100
        self.log_metric(f"{split}/loss", loss.detach(), len(labels))
        self.log_metric(f"{split}/accuracy", accuracy, len(labels))
        return loss
