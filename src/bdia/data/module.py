"""What every data module tells the model, the task, the run's folder and its record."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from tokenizers import Tokenizer

from bdia.data.tokenizer import save_tokenizer


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


class TextDataModule(DataModule):
    """Base of the data modules with a tokenizer, which `setup` makes."""

    tokenizer: Tokenizer | None = None

    @property
    def net_arguments(self) -> dict[str, Any]:
        """The size of the vocabulary; reads the data if nothing has yet."""
        self._ready()
        return {"vocab_size": self.tokenizer.get_vocab_size()}

    @property
    def task_arguments(self) -> dict[str, Any]:
        """The tokenizer."""
        self._ready()
        return {"tokenizer": self.tokenizer}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        self._ready()
        save_tokenizer(self.tokenizer, Path(folder) / "tokenizer.json")

    def _ready(self) -> None:
        self.prepare_data()
        self.setup()
