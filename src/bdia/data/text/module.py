"""What every data module of text tells besides: its tokenizer, which is saved with the run."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bdia import InvalidValueError
from bdia.data.module import DataModule
from bdia.data.text.tokenizer import fingerprint, load_tokenizer, save_tokenizer


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
            raise InvalidValueError(
                f"{folder}: the text changed since the run there was trained, and its checkpoint would lose its "
                "tokenizer: set another paths.runs, or remove that folder"
            )
        save_tokenizer(self.tokenizer, path)

    def _ready(self) -> None:
        self.prepare_data()
        self.setup()
