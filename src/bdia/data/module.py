"""What every data module tells the model, the task, the run's folder and its record."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule


def sha256_of(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the arrays' bytes, one after the other, numbers in little-endian order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return found.hexdigest()


class DataModule(LightningDataModule):
    """Base of all data modules; `setup` may be called more than once and its loaders are `EpochLoader`s.

    `kind` says what a batch holds. It must equal the `kind` of the task.
    """

    kind: str

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
        """Numbers about the data for the run's record, keys of `bdia.results.record.UNITS`; text is read for them."""
        return {}

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of the data as they were read, by split; empty before that. The same data give the same, anywhere."""
        return {}

    def save(self, folder: Path) -> None:
        """Write beside the checkpoint what a trained model cannot be used without."""

    @property
    def _device(self) -> torch.device:
        """Where batches are wanted."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @property
    def _share(self) -> dict[str, int]:
        """Rank and world_size among the processes that share the items of an epoch."""
        # Lightning's own numbers: with tensor parallelism the ranks of one group share their items.
        found = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        return {"rank": found["rank"], "world_size": found["num_replicas"]}
