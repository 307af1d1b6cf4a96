"""The E2E data: what a restaurant is like, as a list of attributes, and sentences that people wrote about it.

Source: Novikova, Dušek, Rieser, "The E2E Dataset: New Challenges For End-to-End Generation" (SIGDIAL 2017).
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError
from bdia.data.files import find, read_text
from bdia.data.loader import seeded_generator
from bdia.data.text.normal import normal
from bdia.data.text.splits import Pair, Pairs, keep_some

COLUMNS = ("mr", "ref")  # meaning representation, sentence


class E2eFiles:
    """The official CSV files, columns `mr` and `ref`: one sentence a row, several rows with the same attributes.

    Rows that are the same are kept once in training. Without a file of its own, validation gets a share of the
    training file's meaning representations, each with all its sentences.

    Args:
        folder: of the files; a relative one is looked for in `data_dir`, in `data_dir`/text and as given.
        train, val, test: file names; `val` None takes a share of `train`.
        val_fraction: that share.
        limit: training rows kept; None keeps all. Fewer are part of more.
        test_limit: test meaning representations kept; None keeps all. Fewer are part of more.
        seed: of the share and of both choices.
    Raises:
        ValueError: a share or limit out of range; names the config key.
    """

    def __init__(
        self,
        folder: str = "e2e",
        train: str = "trainset.csv",
        val: str | None = "devset.csv",
        test: str = "testset_w_refs.csv",
        val_fraction: float = 0.1,
        limit: int | None = None,
        test_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < val_fraction < 1:
            raise InvalidValueError(
                f"val_fraction={val_fraction}: wanted above 0 and below 1; set data.source.val_fraction"
            )
        if test_limit is not None and test_limit < 1:
            raise InvalidValueError(f"test_limit={test_limit}: wanted at least 1 or null; set data.source.test_limit")
        self.folder, self.train, self.val, self.test = folder, train, val, test
        self.val_fraction, self.limit, self.test_limit, self.seed = val_fraction, limit, test_limit, seed

    def load(self, data_dir: Path) -> Pairs:
        """Return (meaning representation, sentence) by split.

        Raises:
            DataNotFoundError: a file is missing. DataCorruptError: it is unreadable, or a row lacks a field.
            ValueError: more rows are wanted than there are; validation gets none.
        """
        train, test = self._read(data_dir, "train"), self._read(data_dir, "test")
        train = list(dict.fromkeys(train))
        if self.val is not None:
            val = self._read(data_dir, "val")
        else:
            held_out = self._held_out(train)
            val = [pair for pair in train if normal(pair[0]) in held_out]
            train = [pair for pair in train if normal(pair[0]) not in held_out]
        if self.test_limit is not None:
            kept = set(_shuffled(_meanings(test), self.seed)[: self.test_limit])
            test = [pair for pair in test if normal(pair[0]) in kept]
        return {"train": keep_some(train, self.limit, self.seed), "val": val, "test": test}

    def _held_out(self, pairs: list[Pair]) -> set[str]:
        meanings = _meanings(pairs)
        size = round(self.val_fraction * len(meanings))
        if not 0 < size < len(meanings):
            raise InvalidValueError(
                f"val_fraction={self.val_fraction} of {len(meanings)} meaning representations is {size}, wanted some "
                "and not all: set data.source.val_fraction, or data.source.val to a file"
            )
        return set(_shuffled(meanings, self.seed)[:size])

    def _read(self, data_dir: Path, split: str) -> list[Pair]:
        key, name = f"data.source.{split}", getattr(self, split)
        wanted = f"a CSV file with columns {', '.join(COLUMNS)}"
        path = find(Path(self.folder) / name, data_dir, wanted, f"data.source.folder, {key}", "restaurants")
        hint = f"wanted {wanted}; mend it or set {key}"
        try:
            rows = list(csv.reader(io.StringIO(read_text(path, hint), newline=""), strict=True))
        except csv.Error as error:
            raise DataCorruptError(f"{path} cannot be read ({error}): {hint}") from error
        if not rows or tuple(rows[0]) != COLUMNS:
            raise DataCorruptError(f"{path} begins with {','.join(rows[0]) if rows else 'nothing'}: {hint}")
        return [_pair(row, number, path, hint) for number, row in enumerate(rows[1:], 2)]


def _pair(row: Sequence[str], number: int, path: Path, hint: str) -> Pair:
    fields = [field.strip() for field in row]
    if len(fields) != len(COLUMNS) or not all(fields):
        raise DataCorruptError(f"{path}, row {number} is {','.join(row)!r}: {hint}")
    return fields[0], fields[1]


def _meanings(pairs: list[Pair]) -> list[str]:
    """Return each meaning once, as it is compared: two that read alike stay in one split."""
    return list(dict.fromkeys(normal(meaning) for meaning, _ in pairs))


def _shuffled(meanings: list[str], seed: int) -> list[str]:
    order = torch.randperm(len(meanings), generator=seeded_generator("meanings", seed))
    return [meanings[number] for number in order.tolist()]
