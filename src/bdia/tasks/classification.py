"""Image classification: cross-entropy and accuracy."""

import torch.nn.functional as F
from torch import Tensor

from bdia.tasks.task import Task

Batch = tuple[Tensor, Tensor]  # images (B, C, height, width) float32, labels (B,) int64


class ImageClassification(Task):
    """Cross-entropy in nats and top-1 accuracy in %, per epoch and split."""

    kind = "images"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of one training batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log one validation batch."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log one test batch."""
        self._step(batch, "test")

    def _step(self, batch: Batch, split: str) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean() * 100
        values = {f"{split}/loss": loss.detach(), f"{split}/accuracy": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels), sync_dist=True)
        return loss
