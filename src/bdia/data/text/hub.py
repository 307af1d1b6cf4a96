"""Text and sentence pairs from the Hugging Face hub, through the optional package `datasets`."""

import gzip
import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.files import read_text, write_whole
from bdia.data.text.pairs import two_languages
from bdia.data.text.splits import Pairs, check_fractions, keep_some, split_pairs

Rows = TypeVar("Rows")


class HubText:
    """The first `count` texts of a data set of the hub, in its stored order, streamed once and kept in `data_dir`.

    Args:
        name: of the data set. count: texts taken.
        split, column: where in the data set the texts are.
        revision: branch, tag or commit of the data set; None is its default. `refs/convert/parquet` is the hub's own
            conversion of a data set that comes as a script, which `datasets` 4 does not run.
    """

    end_of_document = None

    def __init__(
        self, name: str, count: int, split: str = "train", column: str = "text", revision: str | None = None
    ) -> None:
        if count < 1:
            raise InvalidValueError(f"count={count}: wanted at least 1 document; set data.source.count")
        self.name, self.count, self.split, self.column, self.revision = name, count, split, column, revision

    def documents(self, data_dir: Path) -> list[str]:
        """Return the texts that are not blank, fetching them first if they are not there yet.

        Raises:
            DataNotFoundError: no package `datasets`, no network, no such data set.
            DataCorruptError: the kept file is damaged, or the data set has fewer than `count` texts.
        """
        parts = [self.name, self.split, self.column, str(self.count), *([self.revision] if self.revision else [])]
        path = data_dir / "text" / (re.sub(r"[^\w.-]", "--", "_".join(parts)) + ".json.gz")
        if not path.exists():
            write_whole(path, [gzip.compress(json.dumps(self._fetch()).encode(), mtime=0)])
        hint = "delete it, it is fetched again"
        try:
            texts = json.loads(read_text(path, hint))
        except json.JSONDecodeError as error:
            raise DataCorruptError(f"{path} cannot be read ({error}): {hint}") from error
        return [text for text in texts if text.strip()]

    def _fetch(self) -> list[str]:
        texts = fetch(
            lambda rows: [row[self.column] for row in islice(rows, self.count)],
            "data.source.name, split, column and revision",
            "text (data=text_file data.source.paths=[my.txt])",
            self.name,
            split=self.split,
            streaming=True,
            revision=self.revision,
        )
        if len(texts) < self.count:
            raise DataCorruptError(f"{self.name!r} has {len(texts)} texts, wanted {self.count}: set data.source.count")
        return texts


class HubPairs:
    """A data set of the hub with rows `{"translation": {"en": ..., "fr": ...}}`; its pairs are split by `split_pairs`.

    Source: OPUS Books, J. Tiedemann, "Parallel Data, Tools and Interfaces in OPUS" (LREC 2012): aligned novels. It has
    one split, "train", and so no official test set. Rows with a blank side are left out.

    Args:
        name, config: of the data set; `config` names its two languages, "en-fr".
        languages: source and target.
        val_fraction, test_fraction: shares of the pairs.
        limit: training pairs kept; None keeps all.
        seed: of the split and of that choice.
        cache_dir: where the hub's files are kept; None is the library's default.
    """

    def __init__(
        self,
        name: str = "Helsinki-NLP/opus_books",
        config: str = "en-fr",
        languages: Sequence[str] = ("en", "fr"),
        val_fraction: float = 0.02,
        test_fraction: float = 0.02,
        limit: int | None = None,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.source_language, self.target_language = two_languages(languages, config.split("-"))
        self.name, self.config, self.cache_dir = name, config, cache_dir
        self.fractions, self.limit, self.seed = (val_fraction, test_fraction), limit, seed

    def load(self, data_dir: Path) -> Pairs:
        """Fetch (or take from the cache) and split; `data_dir` is not looked at.

        Raises:
            DataNotFoundError: no package, no network or no such data set. DataCorruptError: the rows are no pairs.
        """
        rows = fetch(
            lambda rows: rows["translation"],
            "data.source.name and config, or data.source.cache_dir to a filled cache",
            "files (data=tatoeba) or the embedded data (data=numbers)",
            self.name,
            self.config,
            split="train",
            cache_dir=None if self.cache_dir is None else str(self.cache_dir),
        )
        try:
            pairs = [(row[self.source_language].strip(), row[self.target_language].strip()) for row in rows]
        except (KeyError, TypeError, AttributeError) as error:
            wanted = f"{{'{self.source_language}': ..., '{self.target_language}': ...}}"
            raise DataCorruptError(f"{self.name} ({self.config}): a translation is not {wanted}: {error!r}") from error
        parts = split_pairs([pair for pair in pairs if all(pair)], *self.fractions, self.seed)
        return {**parts, "train": keep_some(parts["train"], self.limit, self.seed)}


def fetch(take: Callable[[Any], Rows], keys: str, local: str, *arguments: str, **keywords: Any) -> Rows:
    """Call `datasets.load_dataset` with the arguments and keywords.

    Args:
        take: makes of the data set what is returned; what it raises counts as a failed fetch.
        keys, local: config keys to change and local data to take instead, for errors.
    Raises:
        DataNotFoundError: no package, no network, no such data set.
    """
    name = " ".join(arguments)
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataNotFoundError(
            f"{name} needs a package: pip install '.[hub]' in bdia's checkout, or take local {local}"
        ) from error
    try:
        return take(load_dataset(*arguments, **keywords))
    except Exception as error:  # the library and its transports raise many kinds
        raise DataNotFoundError(
            f"{name} could not be fetched from the hub: {type(error).__name__}: {error}. Allow the network once, set "
            f"{keys}, or take local {local}"
        ) from error
