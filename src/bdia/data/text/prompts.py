"""Prompts and the sentences that answer them, as rows of tokens for a language model. B batch, T tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from bdia import InvalidValueError
from bdia.data.text.buckets import BucketLoader
from bdia.data.text.module import TextDataModule
from bdia.data.text.splits import SPLITS, Pair, Pairs, load_pairs, pairs_sha256
from bdia.data.text.table import TokenTable
from bdia.data.text.tokenizer import END_OF_DOCUMENT, TokenizerBuilder

IGNORED = -100  # label of what does not count in the loss: the prompt and the padding; PyTorch's number for it
Prompts = list[tuple[str, tuple[str, ...]]]  # text to continue, and the sentences that may follow it


class PromptSource(Protocol):
    """Reads pairs of a prompt and a sentence; a prompt may have several sentences, each a pair."""

    def load(self, data_dir: Path) -> Pairs:
        """Return the pairs of "train", "val" and "test"; the same in every call."""
        ...


class Rows(NamedTuple):
    """The documents of a split: the prompt's tokens, the sentence's and their end, both joined, the prompt's number."""

    prompt: TokenTable
    sentence: TokenTable
    whole: TokenTable
    number: Tensor

    def where(self, kept: Tensor) -> "Rows":
        """Return the rows where `kept`, (N,) bool, is true."""
        return Rows(*(table.where(kept) for table in self[:3]), self.number[kept])

    def to(self, device: torch.device | str) -> "Rows":
        """Return the rows on a device."""
        return Rows(*(part.to(device) for part in self))


class PromptDataModule(TextDataModule):
    """Documents "prompt | sentence<|endoftext|>" as `(inputs (B, T), labels (B, T), number of the prompt (B,))` int64.

    The label of input t is token t + 1 of the document where that token belongs to the sentence or ends it, and
    IGNORED in the prompt and in the padding: the loss counts the sentence alone.

    Attributes, known after setup(): `pairs`, `prompts` (of every split, each once), `tokenizer`, `dropped` (number of
    training rows longer than `max_length`).
    """

    kind = "prompts"

    def __init__(
        self,
        source: PromptSource,
        tokenizer: TokenizerBuilder,
        token_budget: int = 2048,
        eval_token_budget: int = 8192,
        max_length: int = 128,
        separator: str = " |",
        data_dir: str | Path = "data",
        seed: int = 0,
    ) -> None:
        """Set the protocol; nothing is read yet.

        Args:
            source: of the pairs.
            tokenizer: makes the vocabulary, where it is trained from the training documents alone.
            token_budget, eval_token_budget: tokens of a batch at most, padding included.
            max_length: tokens that the model sees of a training document; longer ones are dropped. Validation and test
                documents stay: the model refuses what it cannot take.
            separator: text between prompt and sentence, before a space.
            data_dir: folder of local data.
            seed: of the order of training batches; the split does not depend on it.
        Raises:
            ValueError: `max_length` leaves no room for a sentence.
        """
        super().__init__()
        if max_length < 2:
            raise InvalidValueError(
                f"max_length={max_length}: wanted at least 2, a token of each of prompt and sentence; "
                "set data.max_length"
            )
        self.source, self.builder, self.separator, self.seed = source, tokenizer, separator, seed
        self.token_budget, self.eval_token_budget, self.max_length = token_budget, eval_token_budget, max_length
        self.data_dir = Path(data_dir)
        self.pairs: Pairs = {}
        self.prompts: dict[str, Prompts] = {}
        self.rows: dict[str, Rows] = {}
        self.dropped = 0

    def setup(self, stage: str | None = None) -> None:
        """Read the pairs, make the tokenizer and encode every document, once, whatever the stage.

        Raises:
            DataNotFoundError, DataCorruptError: from the source; a split is empty.
            ValueError: every training document is too long; the tokenizer has no END_OF_DOCUMENT.
        """
        if self.pairs:
            return
        pairs = load_pairs(self.source, self.data_dir)
        texts = (f"{prompt}{self.separator} {sentence}" for prompt, sentence in pairs["train"])
        self.tokenizer = self.builder.build(texts, [END_OF_DOCUMENT], self.data_dir)
        if self.tokenizer.token_to_id(END_OF_DOCUMENT) is None:
            raise InvalidValueError(
                f"the tokenizer has no {END_OF_DOCUMENT}: set data.tokenizer to one of a language model"
            )
        self.prompts = {split: self._prompts(pairs[split]) for split in SPLITS}
        self.rows = {split: self._encode(pairs[split], self.prompts[split]) for split in SPLITS}
        self.pairs = {**pairs, "train": self._drop_long(pairs["train"])}

    @property
    def task_arguments(self) -> dict[str, Any]:
        """What generates and scores: the tokenizer, and the prompts with their sentences of "val" and "test"."""
        return {**super().task_arguments, "prompts": {split: self.prompts[split] for split in ("val", "test")}}

    @property
    def longest(self) -> int:
        """Inputs of the longest document of all splits."""
        self._ready()
        return max(int(rows.whole.lengths.max()) for rows in self.rows.values()) - 1

    @property
    def facts(self) -> dict[str, float]:
        """Numbers of pairs; those dropped are not among the training pairs."""
        self._ready()
        sizes = {f"{split}_pairs": float(len(self.pairs[split])) for split in SPLITS}
        return {**sizes, "dropped_pairs": float(self.dropped)}

    @property
    def checksums(self) -> dict[str, str]:
        """Of each split's pairs, those dropped left out; the tokenizer does not count."""
        return {split: pairs_sha256(pairs) for split, pairs in self.pairs.items()}

    def train_dataloader(self) -> "PromptLoader":
        """Return shuffled training batches."""
        return self._loader("train", self.token_budget, self.seed, "data.token_budget")

    def val_dataloader(self) -> "PromptLoader":
        """Return validation batches in order of length."""
        return self._loader("val", self.eval_token_budget, None, "data.eval_token_budget")

    def test_dataloader(self) -> "PromptLoader":
        """Return test batches in order of length."""
        return self._loader("test", self.eval_token_budget, None, "data.eval_token_budget")

    def _prompts(self, pairs: list[Pair]) -> Prompts:
        sentences: dict[str, list[str]] = {}
        for prompt, sentence in pairs:
            sentences.setdefault(prompt + self.separator, []).append(sentence)
        return [(prompt, tuple(found)) for prompt, found in sentences.items()]

    def _encode(self, pairs: list[Pair], prompts: Prompts) -> Rows:
        numbers = {prompt: number for number, (prompt, _) in enumerate(prompts)}
        openings = [prompt + self.separator for prompt, _ in pairs]
        end = self.tokenizer.token_to_id(END_OF_DOCUMENT)
        prompt = _ids(self.tokenizer, openings)
        sentence = [[*ids, end] for ids in _ids(self.tokenizer, [f" {sentence}" for _, sentence in pairs])]
        whole = [first + second for first, second in zip(prompt, sentence, strict=True)]
        number = torch.tensor([numbers[opening] for opening in openings])
        return Rows(*(TokenTable.of(part) for part in (prompt, sentence, whole)), number)

    def _drop_long(self, train: list[Pair]) -> list[Pair]:
        kept = self.rows["train"].whole.lengths - 1 <= self.max_length
        if not kept.any():
            raise InvalidValueError(
                f"all {len(train)} training documents are longer than max_length={self.max_length}: set data.max_length"
            )
        self.dropped = len(train) - int(kept.sum())
        self.rows["train"] = self.rows["train"].where(kept)
        return [train[number] for number in kept.nonzero().flatten().tolist()]

    def _loader(self, split: str, budget: int, shuffle_seed: int | None, budget_key: str) -> "PromptLoader":
        return PromptLoader(self.rows[split].to(self._device), budget, shuffle_seed, budget_key, **self._share)


class PromptLoader(BucketLoader):
    """Batches of documents of similar length, `(inputs (B, T), labels (B, T), numbers of the prompts (B,))`, int64.

    The batches are `BucketLoader`'s; prompt and sentence of a document follow each other without a gap.
    """

    def __init__(
        self,
        rows: Rows,
        token_budget: int,
        shuffle_seed: int | None,
        budget_key: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan the batches; the arguments are `BucketLoader`'s."""
        super().__init__(rows.prompt, rows.sentence, token_budget, shuffle_seed, budget_key, rank, world_size)
        self.rows = rows

    @property
    def resident_bytes(self) -> int:
        """Bytes of the documents, of the prompts' lengths and numbers and of an epoch's order, held on the device."""
        held = self.rows.prompt.nbytes + self.rows.sentence.nbytes + self.rows.whole.nbytes
        return held + self.rows.number.nbytes + self.order.nbytes

    def batch_indices(self, epoch: int) -> list[tuple[Tensor, int]]:
        """Return the documents of each of this rank's batches in an epoch, and the longest one's tokens."""
        order, sizes = self._dealt(epoch)
        longest = [int(part.max()) for part in self.rows.whole.lengths[order].split(sizes)]
        return list(zip(order.to(self.rows.number.device).split(sizes), longest, strict=True))

    def collate(self, chosen: tuple[Tensor, int], epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, labels and the prompts' numbers."""
        rows, longest = chosen
        tokens = self.rows.whole.padded(rows, longest)
        places = torch.arange(1, longest, device=tokens.device)
        first, behind = self.rows.prompt.lengths_there[rows], self.rows.whole.lengths_there[rows]
        counts = (places >= first[:, None]) & (places < behind[:, None])
        return tokens[:, :-1], tokens[:, 1:].where(counts, IGNORED), self.rows.number[rows]

    def largest(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return batches as large as any of any epoch, whose labels all count."""
        shapes = [(len(source), source.shape[1] + target.shape[1] - 1) for source, target, _ in super().largest()]
        return [
            (torch.zeros(b, t, dtype=torch.int64), torch.zeros(b, t, dtype=torch.int64), torch.arange(b))
            for b, t in dict.fromkeys(shapes)
        ]


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
