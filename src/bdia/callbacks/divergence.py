"""End a training whose loss is not finite, at the step at which it became so, whatever the stack."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from bdia import BdiaError
from bdia.data.ranks import gathered

LOOK_EVERY = 50  # batches: a look makes a GPU wait


class DivergedError(BdiaError, ArithmeticError):
    """The training loss is NaN or infinite."""

    def __init__(self, batch: int, value: float) -> None:
        super().__init__(
            f"diverged: the training loss of batch {batch} is {value}. Lower optimizer.lr, set "
            "trainer.gradient_clip_val, or look at the data"
        )


class Divergence(Callback):
    """Look at every training loss; the step is the first bad one's, however late it is looked at.

    On a CPU every batch is looked at. Elsewhere the losses are judged on the device and the result is fetched after
    `LOOK_EVERY` batches, before a validation and at an epoch's end.
    """

    def __init__(self) -> None:
        self.first: Tensor | None = None  # (2,) float64: number of the first bad batch, or -1, and its loss

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the loss of this batch.

        Raises:
            DivergedError: it, or one since the last look, is not finite.
        """
        loss = outputs["loss"].detach().double()
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if self.first is None:
            self.first = torch.tensor([-1.0, 0.0], dtype=torch.float64, device=loss.device)
        here = torch.stack([torch.full_like(loss, number), loss])
        is_first = (self.first[0] < 0) & ~torch.isfinite(loss)
        self.first = torch.where(is_first, here, self.first)
        if loss.device.type == "cpu" or number % LOOK_EVERY == 0:
            self._look()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a validation, which would measure a model of NaN."""
        self._look()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the epoch's checkpoint is written."""
        self._look()

    def _look(self) -> None:
        if self.first is not None:
            bad = [(number, value) for number, value in gathered(self.first.tolist()) if number >= 0]
            if bad:
                raise DivergedError(int(min(bad)[0]), min(bad)[1])
