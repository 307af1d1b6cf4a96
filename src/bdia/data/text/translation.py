"""Translation: sentence pairs as batches of token ids, cut by a token budget."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from bdia import InvalidValueError
from bdia.data.text.buckets import BucketLoader
from bdia.data.text.module import TextDataModule
from bdia.data.text.pairs import PairSource
from bdia.data.text.splits import SPLITS, Pair, Pairs, load_pairs, pairs_sha256
from bdia.data.text.table import PAD_ID, TokenTable
from bdia.data.text.tokenizer import BOS, EOS, PAD, TokenizerBuilder

BOS_ID, EOS_ID = PAD_ID + 1, PAD_ID + 2


class TranslationDataModule(TextDataModule):
    """Pairs as `(source (B, S), target (B, T + 1), index (B,))` int64, padded on the right with id 0.

    source: its tokens, EOS. target: BOS, its tokens, EOS; inputs are `target[:, :-1]` and labels `target[:, 1:]`.
    index: number of the pair in `pairs[split]`, which holds its text. One vocabulary serves both languages; it is
    built from the training pairs alone, before long ones are dropped.

    Attributes, known after setup(): `pairs`, `tokenizer`, `dropped` (number of training pairs longer than
    `max_length`).
    """

    kind = "sentence pairs"

    def __init__(
        self,
        source: PairSource,
        tokenizer: TokenizerBuilder,
        token_budget: int = 4096,
        eval_token_budget: int = 16_384,
        max_length: int = 256,
        data_dir: str | Path = "data",
        seed: int = 0,
    ) -> None:
        """Set the protocol; nothing is read yet.

        Args:
            source: of the pairs.
            tokenizer: builds the vocabulary.
            token_budget, eval_token_budget: elements of source and target tensor of a batch at most, padding included.
            max_length: positions of the model that a training sentence may take, tokens and one control token; pairs
                with a longer one are dropped. Validation and test pairs stay: the model refuses what it cannot take.
            data_dir: folder of local data.
            seed: of the order of training batches; the split does not depend on it.
        Raises:
            ValueError: `max_length` leaves no room for a token.
        """
        super().__init__()
        if max_length < 2:
            raise InvalidValueError(
                f"max_length={max_length}: wanted at least 2, a token and a control token; set data.max_length"
            )
        self.source, self.builder, self.seed = source, tokenizer, seed
        self.token_budget, self.eval_token_budget, self.max_length = token_budget, eval_token_budget, max_length
        self.data_dir = Path(data_dir)
        self.pairs: Pairs = {}
        self.dropped = 0
        self.encoded: dict[str, tuple[TokenTable, TokenTable]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the pairs, build the tokenizer and encode every sentence, once, whatever the stage.

        Raises:
            DataNotFoundError, DataCorruptError: from the source; a split is empty.
            ValueError: the tokenizer has other control ids; every training pair is too long.
        """
        if self.pairs:
            return
        pairs = load_pairs(self.source, self.data_dir)
        self.tokenizer = self._build_tokenizer(pairs["train"])
        self.encoded = {split: _encode(self.tokenizer, pairs[split]) for split in SPLITS}
        self.pairs = {**pairs, "train": self._drop_long(pairs["train"])}

    @property
    def task_arguments(self) -> dict[str, Any]:
        """What decodes and scores: the tokenizer, and the target sentences of "val" and "test" by `index`."""
        arguments = super().task_arguments
        references = {split: [target for _, target in self.pairs[split]] for split in ("val", "test")}
        return {**arguments, "references": references}

    @property
    def longest(self) -> int:
        """Tokens of the longest sentence of all splits, with one control token: what EOS or BOS adds to it."""
        self._ready()
        sides = [side for tables in self.encoded.values() for side in zip(tables, (0, 1), strict=True)]
        return max(int(table.lengths.max()) - surplus for table, surplus in sides)

    @property
    def facts(self) -> dict[str, float]:
        """Numbers of pairs; those dropped are not among the training pairs."""
        self._ready()
        return {
            **{f"{split}_pairs": float(len(self.pairs[split])) for split in SPLITS},
            "dropped_pairs": float(self.dropped),
        }

    @property
    def checksums(self) -> dict[str, str]:
        """Of each split's pairs, those dropped left out; the tokenizer does not count."""
        return {split: pairs_sha256(pairs) for split, pairs in self.pairs.items()}

    def train_dataloader(self) -> BucketLoader:
        """Return shuffled training batches."""
        return self._loader("train", self.token_budget, self.seed, "data.token_budget")

    def val_dataloader(self) -> BucketLoader:
        """Return validation batches in order of length."""
        return self._loader("val", self.eval_token_budget, None, "data.eval_token_budget")

    def test_dataloader(self) -> BucketLoader:
        """Return test batches in order of length."""
        return self._loader("test", self.eval_token_budget, None, "data.eval_token_budget")

    def _build_tokenizer(self, train: list[Pair]) -> Tokenizer:
        specials = (PAD, BOS, EOS)
        tokenizer = self.builder.build((text for pair in train for text in pair), specials, self.data_dir)
        found = [tokenizer.token_to_id(name) for name in specials]
        if found != [PAD_ID, BOS_ID, EOS_ID]:
            raise InvalidValueError(
                f"{type(self.builder).__name__} gives {', '.join(specials)} the ids {found}, wanted 0, 1, 2: set "
                "data.tokenizer to one trained here (CorpusBpe or Bytes)"
            )
        return tokenizer

    def _drop_long(self, train: list[Pair]) -> list[Pair]:
        source, target = self.encoded["train"]
        # Both carry EOS; BOS only moves the decoder's inputs by one.
        kept = torch.maximum(source.lengths, target.lengths - 1) <= self.max_length
        if not kept.any():
            raise InvalidValueError(
                f"all {len(train)} training pairs are longer than max_length={self.max_length}: set data.max_length"
            )
        self.dropped = len(train) - int(kept.sum())
        self.encoded["train"] = source.where(kept), target.where(kept)
        return [train[number] for number in kept.nonzero().flatten().tolist()]

    def _loader(self, split: str, budget: int, shuffle_seed: int | None, budget_key: str) -> BucketLoader:
        source, target = (side.to(self._device) for side in self.encoded[split])
        return BucketLoader(source, target, budget, shuffle_seed, budget_key, **self._share)


def _encode(tokenizer: Tokenizer, pairs: list[Pair]) -> tuple[TokenTable, TokenTable]:
    """Encode source and target sentences, with their control tokens."""
    source, target = (
        [line.ids for line in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        for texts in zip(*pairs, strict=True)
    )
    return TokenTable.of([[*ids, EOS_ID] for ids in source]), TokenTable.of([[BOS_ID, *ids, EOS_ID] for ids in target])
