"""What every data module tells the model, the task, the run's folder and its record."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule


class DataModule(LightningDataModule):
    """Base of all data modules; `setup` may be called more than once and its loaders are `EpochLoader`s."""

    @property
    def net_arguments(self) -> dict[str, Any]:
        """What the data fix about the model: keyword arguments of `model.net`."""
        raise NotImplementedError

    @property
    def task_arguments(self) -> dict[str, Any]:
        """Objects that the task needs to read a batch or to score an output."""
        return {}

    @property
    def facts(self) -> dict[str, float]:
        """Numbers about the data for the run's record, keys of `bdia.results.record.UNITS`; known after setup()."""
        return {}

    def save(self, folder: Path) -> None:
        """Write beside the checkpoint what a trained model cannot be used without."""
