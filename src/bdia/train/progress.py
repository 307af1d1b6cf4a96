"""The progress bar: Lightning's, drawn now and then instead of after every batch."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar, drawn at most every `seconds` and after the last batch; only on a terminal.

    Drawing costs some milliseconds, which is as much as a whole step of a small model.
    """

    def __init__(self, seconds: float = 0.2) -> None:
        super().__init__()
        self.seconds = seconds
        self.drawn = -float("inf")
        if not sys.stdout.isatty():
            self.disable()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if it is time."""
        if self._due(batch_idx + 1, self.total_train_batches):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Draw if it is time."""
        if self._due(rest[2] + 1, self.total_val_batches_current_dataloader):
            super().on_validation_batch_end(trainer, pl_module, *rest)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Draw if it is time."""
        if self._due(rest[2] + 1, self.total_test_batches_current_dataloader):
            super().on_test_batch_end(trainer, pl_module, *rest)

    def _due(self, done: int, total: float) -> bool:
        now = time.monotonic()
        if self.is_disabled or (done < total and now - self.drawn < self.seconds):
            return False
        self.drawn = now
        return True
