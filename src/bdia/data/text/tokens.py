"""Language modelling: documents split into train, val and test, each split one stream of tokens."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError
from bdia.data.module import sha256_of
from bdia.data.text.documents import Document, Source
from bdia.data.text.module import TextDataModule
from bdia.data.text.splits import check_fractions, split_documents
from bdia.data.text.token_file import (
    LARGEST_VOCABULARY,
    cached_splits,
    encoded,
    streams_key,
    unigram_perplexity,
    with_ends,
)
from bdia.data.text.tokenizer import END_OF_DOCUMENT, TokenizerBuilder
from bdia.data.text.windows import TokenLoader


class TokenDataModule(TextDataModule):
    """Documents of a source as streams of tokens, every document followed by END_OF_DOCUMENT.

    Split: of documents that are the same, the first is kept; then they are dealt at random to test, val and train,
    before anything learns from them: a tokenizer is trained on the training documents alone. `fraction` keeps a share
    of the training documents; a smaller share is part of a larger, val and test are left whole.
    Streams are kept in `cache_dir`, in a folder named after the tokenizer and the documents of each split.
    """

    kind = "documents"

    def __init__(
        self,
        source: Source,
        tokenizer: TokenizerBuilder,
        context: int = 128,
        batch_size: int = 16,
        eval_batch_size: int = 32,
        fraction: float = 1.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        data_dir: str | Path = "data",
        cache_dir: str | Path = "runs/tokens",
        seed: int = 0,
    ) -> None:
        """Set the protocol; nothing is read yet.

        Args:
            source, tokenizer: where documents come from; what makes the tokenizer.
            context: T, tokens a model sees.
            batch_size, eval_batch_size: windows per batch and device.
            fraction: share of the training documents kept, at least one document.
            val_fraction, test_fraction: shares of all documents, rounded to whole ones.
            split_seed: seeds which documents are where and which are kept.
            data_dir, cache_dir: folders of local data and of token files.
            seed: seeds where the windows of an epoch start, and their order.
        Raises:
            ValueError: a value out of range; names the config key.
        """
        super().__init__()
        for name, value in {"context": context, "batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise InvalidValueError(f"{name}={value}: wanted at least 1; set data.{name}")
        if not 0 < fraction <= 1:
            raise InvalidValueError(f"fraction={fraction}: wanted 0 < fraction <= 1; set data.fraction")
        check_fractions(val_fraction, test_fraction, "data")
        self.source, self.builder = source, tokenizer
        self.context, self.batch_size, self.eval_batch_size = context, batch_size, eval_batch_size
        self.fractions, self.split_seed, self.seed = (val_fraction, test_fraction, fraction), split_seed, seed
        self.data_dir, self.cache_dir = Path(data_dir), Path(cache_dir)
        self.document_counts: dict[str, int] = {}
        self.tokens: dict[str, np.ndarray] = {}

    def prepare_data(self) -> None:
        """Do what `setup` does: one process fetches and writes, the others find it done."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read, split, make the tokenizer, encode or take the token files; once, whatever the stage.

        Raises:
            DataNotFoundError, DataCorruptError: from the source or the tokenizer; a token id outside the vocabulary.
            ValueError: too few documents or tokens, a vocabulary over 65,536, a tokenizer that does not fit the source.
        """
        if self.tokens:
            return
        splits = split_documents(self.source.documents(self.data_dir), *self.fractions, self.split_seed)
        is_text = self.source.end_of_document is None
        tokenizer = self.builder.build(splits["train"] if is_text else [], [END_OF_DOCUMENT], self.data_dir)
        self._check_fit(tokenizer, splits)
        folder = self.cache_dir / streams_key(tokenizer, splits)
        encode = encoded if is_text else with_ends
        streams = cached_splits(
            folder, {name: lambda part=part: encode(tokenizer, part) for name, part in splits.items()}
        )
        self._check_windows(streams)
        self.document_counts = {name: len(part) for name, part in splits.items()}
        self.tokenizer, self.tokens = tokenizer, streams

    @property
    def longest(self) -> int:
        """T, `context`."""
        return self.context

    @property
    def facts(self) -> dict[str, float]:
        """Tokens and documents of each split; perplexity of all validation tokens under training frequencies."""
        self._ready()
        sizes = {f"{name}_tokens": len(stream) for name, stream in self.tokens.items()}
        counts = {f"{name}_documents": count for name, count in self.document_counts.items()}
        vocab_size = self.tokenizer.get_vocab_size()
        unigram = unigram_perplexity(self.tokens["train"], self.tokens["val"], vocab_size)
        return {**sizes, **counts, "unigram_perplexity": unigram}

    @property
    def checksums(self) -> dict[str, str]:
        """Of each split's tokens, which depend on text, split and tokenizer."""
        return {split: sha256_of(stream) for split, stream in self.tokens.items()}

    def train_dataloader(self) -> TokenLoader:
        """Return shuffled windows that start elsewhere in each epoch."""
        return self._loader("train", self.batch_size, self.seed)

    def val_dataloader(self) -> TokenLoader:
        """Return validation windows in stored order; what is left behind the last whole one is dropped."""
        return self._loader("val", self.eval_batch_size, None)

    def test_dataloader(self) -> TokenLoader:
        """Return test windows in stored order; what is left behind the last whole one is dropped."""
        return self._loader("test", self.eval_batch_size, None)

    def _check_fit(self, tokenizer: Tokenizer, splits: dict[str, list[Document]]) -> None:
        vocab_size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_DOCUMENT)
        if vocab_size > LARGEST_VOCABULARY:
            raise InvalidValueError(
                f"the vocabulary has {vocab_size} tokens, wanted at most {LARGEST_VOCABULARY}, which fit in a token "
                "file: lower data.tokenizer.vocab_size"
            )
        if self.source.end_of_document is None:
            return
        if end != self.source.end_of_document:
            raise InvalidValueError(
                f"documents of the source end with id {self.source.end_of_document}, those of the tokenizer with {end}:"
                " take the tokenizer that made the file (tokenizer@data.tokenizer=gpt2) or set"
                " data.source.end_of_document"
            )
        largest = max(int(document.max()) for part in splits.values() for document in part)
        if largest >= vocab_size:
            raise DataCorruptError(
                f"the source holds token id {largest}, the vocabulary ends at {vocab_size - 1}: set data.source.path, "
                "or take the tokenizer that made the file (tokenizer@data.tokenizer=gpt2)"
            )

    def _check_windows(self, streams: dict[str, np.ndarray]) -> None:
        for name, stream in streams.items():
            wanted = 2 * self.context if name == "train" else self.context + 1
            if len(stream) < wanted:
                raise InvalidValueError(
                    f"{name} has {len(stream)} tokens, wanted at least {wanted} for windows of context "
                    f"{self.context}: lower data.context or give more documents"
                )

    def _loader(self, split: str, batch_size: int, shuffle_seed: int | None) -> TokenLoader:
        loader = TokenLoader(self.tokens[split], self.context, batch_size, shuffle_seed, self._device, **self._share)
        if loader.items < loader.world_size:
            raise InvalidValueError(
                f"{split} has {loader.items} windows, wanted one for each of {loader.world_size} devices: lower "
                "data.context or trainer.devices"
            )
        return loader
