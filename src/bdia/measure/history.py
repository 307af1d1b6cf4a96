"""Rows of measurements, and the callback that keeps every epoch's loss, accuracy and learning rate."""

from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer


class Row(NamedTuple):
    """One value; `name` is a key of `bdia.results.record.UNITS` and fixes the unit."""

    name: str
    value: float
    split: str | None = None
    step: int | None = None


class Measurement(Callback):
    """A callback that measures and never alters training; `rows` holds what it found and survives a resume."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        """Save the rows in the checkpoint."""
        return {"rows": [tuple(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = [Row(*row) for row in state_dict["rows"]]


class History(Measurement):
    """Keep `split/name` values that the task logged, once per epoch and once for the test."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add one row per logged value of the epoch; validation ran before."""
        self._add(trainer, ("train", "val"))
        self.rows.append(Row("lr", float(trainer.optimizers[0].param_groups[0]["lr"]), "train", trainer.global_step))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test values."""
        self._add(trainer, ("test",))

    def _add(self, trainer: Trainer, splits: tuple[str, ...]) -> None:
        for key, value in trainer.callback_metrics.items():
            split, _, name = key.partition("/")
            if split in splits:
                self.rows.append(Row(name, float(value), split, trainer.global_step))
