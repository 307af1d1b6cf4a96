"""Data to text: a language model continues a prompt; the loss of the sentence alone, BLEU and chrF of greedy output."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor

from bdia import InvalidValueError
from bdia.data.ranks import gathered
from bdia.data.text.prompts import IGNORED, Prompts
from bdia.data.text.tokenizer import END_OF_DOCUMENT
from bdia.models.sampling import generate
from bdia.tasks.sharding import whole_weights
from bdia.tasks.text import TextTask

Batch = tuple[Tensor, Tensor, Tensor]  # inputs (B, T), labels (B, T) with IGNORED, numbers of the prompts (B,)
ROWS = 64  # prompts continued at once


class DataToText(TextTask):
    """Loss and perplexity per token of the sentence; on the test split, corpus BLEU and chrF of greedy output.

    sacrebleu compares an output with all sentences of its prompt; its signatures go into the record.

    Args:
        prompts: split -> prompts with their sentences, in the order of the prompts' numbers; needed to test.
        new_tokens: longest output, tokens.
        settings: keywords of `TextTask`.
    Raises:
        ValueError: no token may be written.
    """

    kind = "prompts"

    def __init__(self, prompts: Mapping[str, Prompts] | None = None, new_tokens: int = 100, **settings: Any) -> None:
        super().__init__(**settings)
        if new_tokens < 1:
            raise InvalidValueError(f"new_tokens={new_tokens}: wanted at least 1; set model.new_tokens")
        self.prompts, self.new_tokens = prompts or {}, new_tokens
        self.tested: set[int] = set()

    def nll(self, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Return the summed loss of a batch's sentences and the number of their tokens."""
        inputs, labels, _ = batch
        total, _ = self.net.nll(inputs, labels, label_smoothing)
        return total, self.size(batch)

    def size(self, batch: Batch) -> Tensor:
        """Tokens of the sentences of a batch."""
        return (batch[1] != IGNORED).sum()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of one test batch and note its prompts."""
        super().test_step(batch, batch_idx)
        self.tested.update(batch[2].tolist())

    def on_test_epoch_end(self) -> None:
        """Continue every prompt that was tested, and score all outputs at once: BLEU is no mean over sentences.

        Each process continues its share of the prompts.
        """
        tested, self.tested = sorted(set().union(*gathered(self.tested))), set()
        if not tested:  # trainer.limit_test_batches=0
            return
        prompts = [self.prompts["test"][number] for number in tested]
        with whole_weights(self.net):
            shares = gathered(self.continue_prompts([text for text, _ in prompts[self.global_rank :: self.world_size]]))
        found = [shares[place % self.world_size][place // self.world_size] for place in range(len(prompts))]
        references = [sentences for _, sentences in prompts]
        scores = {}
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            scores[name] = metric.corpus_score(found, by_place(references)).score
            self.signatures[name] = str(metric.get_signature())
        self.log_scores(scores)

    @torch.inference_mode()
    def continue_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the likeliest continuation of each prompt, token by token, without the space before it."""
        end = self.tokenizer.token_to_id(END_OF_DOCUMENT)
        ids = [self.tokenizer.encode(prompt).ids for prompt in prompts]
        found = [""] * len(ids)
        for length in sorted({len(row) for row in ids}):  # rows of one length need no padding
            same = [number for number, row in enumerate(ids) if len(row) == length]
            for numbers in (same[start : start + ROWS] for start in range(0, len(same), ROWS)):
                rows = torch.tensor([ids[number] for number in numbers], device=self.device)
                room = min(self.new_tokens, self.net.longest + 1 - length)
                texts = generate(self.net, rows, room, temperature=0, stop_id=end)[:, length:].tolist()
                for number, text in zip(numbers, self.tokenizer.decode_batch(texts), strict=True):
                    found[number] = text.strip()
        return found


def by_place(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return sacrebleu's form: one list per place, None where an output has fewer sentences to be compared with."""
    most = max(map(len, references))
    return [[found[place] if place < len(found) else None for found in references] for place in range(most)]
