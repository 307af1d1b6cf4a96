"""Continue an interrupted run at the very batch at which it was stopped."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bdia.train.checkpoints import LAST
from bdia.train.stopping import Stopping


class Resume(Callback):
    """Save and restore the loader's position and the commits that trained; write a checkpoint when told to end.

    Args:
        commit: of the code that runs.
    Attributes:
        earlier: the commits that trained before an interruption, the first one first, without repetition.
    """

    position: dict[str, Any] | None = None

    def __init__(self, commit: str) -> None:
        self.commit = commit
        self.stopping = Stopping()
        self.earlier: list[str] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save both."""
        checkpoint["train_loader"] = trainer.train_dataloader.state_dict()
        checkpoint["commits"] = [*self.earlier, self.commit]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the position until there is a loader."""
        self.position = checkpoint.get("train_loader")
        before = [commit for commit in checkpoint.get("commits", ()) if commit != self.commit]
        self.earlier = list(dict.fromkeys(before))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the position. Lightning 2.6 forgets it where the schedule's length was asked for before."""
        if self.position is not None:
            trainer.train_dataloader.load_state_dict(self.position)
        self.stopping.listen(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the run may leave its machine at any moment."""
        self.stopping.leave_at_once()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End all processes at this batch if one was told to end: Lightning raises right after it.

        Gradients that FSDP2 holds back are in no checkpoint: such a run ends after the optimizer's next step.
        """
        if trainer.world_size > 1 and self.stopping.agree(trainer) and not pl_module.holds_back:
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at the batch boundary at which Lightning raises. In validation and test the last epoch's file stays."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            trainer.save_checkpoint(Path(trainer.checkpoint_callback.dirpath) / LAST)
