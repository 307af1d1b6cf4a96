"""Sentence pairs from the Hugging Face hub, through the optional package `datasets`."""

from collections.abc import Sequence
from pathlib import Path

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.pairs import two_languages
from bdia.data.splits import Pairs, check_fractions, keep_some, split_pairs


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
        rows = self._rows()
        try:
            pairs = [(row[self.source_language].strip(), row[self.target_language].strip()) for row in rows]
        except (KeyError, TypeError, AttributeError) as error:
            wanted = f"{{'{self.source_language}': ..., '{self.target_language}': ...}}"
            raise DataCorruptError(f"{self.name} ({self.config}): a translation is not {wanted}: {error!r}") from error
        parts = split_pairs([pair for pair in pairs if all(pair)], *self.fractions, self.seed)
        return {**parts, "train": keep_some(parts["train"], self.limit, self.seed)}

    def _rows(self) -> list[dict[str, str]]:
        way_out = "or take local files (data=tatoeba) or the embedded data (data=numbers)"
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise DataNotFoundError(f"{self.name} needs a package: pip install 'bdia[hub]', {way_out}") from error
        try:
            cache_dir = None if self.cache_dir is None else str(self.cache_dir)
            return load_dataset(self.name, self.config, split="train", cache_dir=cache_dir)["translation"]
        except Exception as error:  # the library and its HTTP client raise many kinds
            raise DataNotFoundError(
                f"{self.name} ({self.config}) could not be loaded from the hub: {error}. Allow the network once, set "
                f"data.source.cache_dir to a filled cache, {way_out}"
            ) from error
