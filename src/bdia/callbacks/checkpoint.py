"""Lightning's checkpoint callback, at moments from which a run can go on exactly."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

ASK_EVERY = 50  # batches, between which several processes do not ask each other whether it is time


class Checkpoint(ModelCheckpoint):
    """Write a checkpoint where nothing of the batch in hand is outstanding.

    Lightning writes at a batch's end, before the validation or the end of the epoch that follow it, and a run that goes
    on from there leaves both out. Here such a checkpoint comes one batch later, or at the epoch's end.

    Args:
        minutes: write at the latest so long after the checkpoint before, however long an epoch is; None: never for
            this reason.
        sharded: every process writes its share (`bdia.train.shares`); the strategy reads it.
        kwargs: those of Lightning's `ModelCheckpoint`.
    """

    is_due = False  # since a batch after which there was more to do, or since its time had come

    def __init__(self, minutes: float | None = None, sharded: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minutes = minutes

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the minutes."""
        super().on_train_start(trainer, pl_module)
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write if it is time, or was time before."""
        self.is_due = self.is_due or self._is_late(trainer, batch_idx)
        if trainer.is_last_batch or _validation_follows(trainer, batch_idx):
            every = self._every_n_train_steps
            self.is_due = self.is_due or (every >= 1 and trainer.global_step % every == 0)
        elif self.is_due:
            if not getattr(pl_module, "holds_back", False):  # gradients that no checkpoint has
                self._write(trainer)
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write if it is time, or was time at the last batch."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.is_due:
            self._write(trainer)

    def _is_late(self, trainer: Trainer, batch_idx: int) -> bool:
        """Tell whether the minutes are over; several processes go by the clock of the first."""
        if self.minutes is None or (trainer.world_size > 1 and batch_idx % ASK_EVERY):
            return False
        late = time.monotonic() - self._written >= 60 * self.minutes
        return bool(trainer.strategy.broadcast(late)) if trainer.world_size > 1 else late

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._written = time.monotonic()

    def _write(self, trainer: Trainer) -> None:
        self.is_due = False
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Tell whether validation follows this batch, which is not the epoch's last."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or every is None or every == float("inf"):
        return False
    batches = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (batches + 1) % int(every) == 0
