"""What every data module tells the model, the task, the run's folder and its record."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from tokenizers import Tokenizer

from bdia.data.tokenizer import fingerprint, load_tokenizer, save_tokenizer


class DataModule(LightningDataModule):
    """Base of all data modules; `setup` may be called more than once and its loaders are `EpochLoader`s.

    `kind` says what a batch holds, in the word that the task which can read it has too.
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

    @property
    def longest(self) -> int:
        """The largest number of tokens that the model sees at once, whatever the split; known after setup()."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`.

        Raises:
            ValueError: a checkpoint in the folder belongs to another tokenizer; nothing is written.
            DataCorruptError: a checkpoint is there, and the `tokenizer.json` beside it is none.
        """
        self._ready()
        path = Path(folder) / "tokenizer.json"
        trained = any((path.parent / name).exists() for name in ("final.ckpt", "last.ckpt"))
        if trained and path.exists() and fingerprint(load_tokenizer(path)) != fingerprint(self.tokenizer):
            raise ValueError(
                f"{folder}: the text changed since the run there was trained, and its checkpoint would lose its "
                "tokenizer: set another paths.runs, or remove that folder"
            )
        save_tokenizer(self.tokenizer, path)

    def _ready(self) -> None:
        self.prepare_data()
        self.setup()
