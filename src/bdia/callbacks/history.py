"""Rows of measurements, and the callback that keeps every epoch's loss, accuracy and learning rate."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer


class Measurement(NamedTuple):
    """One value; `name` is a key of `bdia.results.record.UNITS` and fixes the unit."""

    name: str
    value: float
    split: str | None = None
    step: int | None = None

    @property
    def curve(self) -> str:
        """Name of its curve and of its entry in a summary: "val/loss", "peak_allocated"."""
        return f"{self.split}/{self.name}" if self.split else self.name


class MeasuringCallback(Callback):
    """A callback that measures and never alters training; `rows` holds what it found and survives a resume.

    What changes during a training it also hands to the run's loggers when it has it (`draw`).
    """

    def __init__(self) -> None:
        self.rows: list[Measurement] = []

    def state_dict(self) -> dict[str, Any]:
        """Save the rows in the checkpoint."""
        return {"rows": [tuple(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = [Measurement(*row) for row in state_dict["rows"]]

    def draw(self, trainer: Trainer, rows: Iterable[Measurement]) -> None:
        """Add a point to the loggers' curve of each row, at the present step."""
        values = {row.curve: row.value for row in rows}
        for logger in trainer.loggers if values else ():
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)


class History(MeasuringCallback):
    """Keep `split/name` values that the task logged, once per epoch and once for the test."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the validation's values; Lightning would show them again after epochs without validation."""
        self._add(trainer, "val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's values."""
        self._add(trainer, "train")
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append(Measurement("lr", rate, "train", trainer.global_step))
        self.draw(trainer, self.rows[-1:])  # Lightning draws the rest

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test values."""
        self._add(trainer, "test")

    def _add(self, trainer: Trainer, split: str) -> None:
        for key, value in trainer.callback_metrics.items():
            if key.startswith(f"{split}/") and not trainer.sanity_checking:
                self.rows.append(Measurement(key.removeprefix(f"{split}/"), float(value), split, trainer.global_step))
