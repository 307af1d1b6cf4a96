"""How exactly the residual streams are rebuilt in backward."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from bdia.callbacks.history import Measurement, MeasuringCallback
from bdia.data.ranks import gathered


class ReversibilityCheck(MeasuringCallback):
    """On one batch an epoch, verify reversible stacks: 0 where every stream came back exactly, else the worst error.

    With `bits="auto"` also the grid that was chosen, the coarsest of all stacks.

    Where nothing is rebuilt (stored activations, all blocks kept) there is no row.

    A stack on a grid compares integer sums of bits and raises ReversibilityError on a difference; one without (RevViT
    as published, BDIA in float) keeps copies of its streams for this batch and measures.

    Args:
        at_batch: the batch verified, counted from 0 at the start of training, later at the start of each epoch; not the
            one whose memory is measured.
    """

    def __init__(self, at_batch: int = 2) -> None:
        super().__init__()
        self.at_batch = at_batch
        self.before: dict[Any, bool] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Turn verification on."""
        seen = trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
        if seen == self.at_batch or (seen > self.at_batch and batch_idx == self.at_batch):
            stacks = [module for module in pl_module.modules() if hasattr(module, "reconstruction_error")]
            self.before = {stack: stack.verify for stack in stacks}
            for stack in stacks:
                stack.verify = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the error and put verification back as it was."""
        if self.before:
            new, step = [], trainer.global_step
            errors = [float(e) for stack in self.before for e in stack.reconstruction_error.values()]
            errors = [error for of_rank in gathered(errors) for error in of_rank]
            if any(stack.rebuilt for stack in self.before):
                new.append(Measurement("reconstruction_error", max(errors, default=0.0), None, step))
            chosen = [stack.bits for stack in self.before if getattr(stack, "auto_bits", False)]
            new += [Measurement("grid_bits", min(chosen), None, step)] if chosen else []
            self.rows += new
            self.draw(trainer, new)
        for stack, verify in self.before.items():
            stack.verify = verify
        self.before = {}
