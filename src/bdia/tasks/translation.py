"""Translation: the loss of every target token, and BLEU, chrF and exact matches of beam search's sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bdia import InvalidValueError
from bdia.data.ranks import gathered
from bdia.data.text.tokenizer import BOS, EOS
from bdia.models.decoding import beam_search
from bdia.tasks.sharding import whole_weights
from bdia.tasks.text import TextTask

Batch = tuple[Tensor, Tensor, Tensor]  # source (B, S), target (B, T + 1), number of each pair in its split (B,)


class Translation(TextTask):
    """Loss and perplexity per target token; on the test split, corpus BLEU and chrF of detokenised beam output.

    sacrebleu computes both on the raw reference text; its signatures go into the record.

    Args:
        references: split -> target sentences, in the order of the pairs' numbers; needed to test.
        beam: hypotheses per sentence; 1 is greedy search.
        length_penalty: a hypothesis scores log p / length ** length_penalty.
        settings: keywords of `TextTask`.
    """

    kind = "sentence pairs"

    def __init__(
        self,
        references: Mapping[str, Sequence[str]] | None = None,
        beam: int = 4,
        length_penalty: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if beam < 1:
            raise InvalidValueError(f"beam={beam}: wanted at least 1; set model.beam")
        self.references, self.beam, self.length_penalty = references or {}, beam, length_penalty
        self.hypotheses: dict[int, str] = {}

    def nll(self, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Return the summed loss of a batch and its number of target tokens, padding left out."""
        source, target, _ = batch
        return self.net.nll(source, target[:, :-1], target[:, 1:], label_smoothing)

    def size(self, batch: Batch) -> Tensor:
        """Target tokens of a batch."""
        return (batch[1][:, 1:] != self.net.pad_id).sum()

    def translate(
        self,
        sentences: Sequence[str],
        beam: int | None = None,
        length_penalty: float | None = None,
        max_length: int | None = None,
    ) -> list[str]:
        """Return the translations of sentences, in one batch; call it in `eval()`.

        Args:
            sentences: source text; an empty one stays empty.
            beam, length_penalty: None takes the task's own.
            max_length: longest translation, tokens; None lets it grow with the source.
        """
        eos = self.tokenizer.token_to_id(EOS)
        filled = [index for index, sentence in enumerate(sentences) if sentence.strip()]
        rows = [torch.tensor([*self.tokenizer.encode(sentences[index]).ids, eos]) for index in filled]
        found = [""] * len(sentences)
        if rows:
            source = pad_sequence(rows, batch_first=True, padding_value=self.net.pad_id).to(self.device)
            for index, text in zip(filled, self._search(source, beam, length_penalty, max_length), strict=True):
                found[index] = text
        return found

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and translate one test batch."""
        super().test_step(batch, batch_idx)
        source, _, numbers = batch
        with whole_weights(self.net):
            self.hypotheses |= dict(zip(numbers.tolist(), self._search(source), strict=True))

    def on_test_epoch_end(self) -> None:
        """Score all sentences of all processes at once: BLEU is no mean over sentences."""
        found = {number: text for part in gathered(self.hypotheses) for number, text in part.items()}
        numbers, self.hypotheses = sorted(found), {}
        if not numbers:  # trainer.limit_test_batches=0
            return
        references, outputs = [self.references["test"][n] for n in numbers], [found[n] for n in numbers]
        matches = sum(a == b for a, b in zip(outputs, references, strict=True))
        scores = {"exact_match": 100 * matches / len(references)}
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            scores[name] = metric.corpus_score(outputs, [references]).score
            self.signatures[name] = str(metric.get_signature())
        self.log_scores(scores)

    @torch.inference_mode()
    def _search(
        self,
        source: Tensor,
        beam: int | None = None,
        length_penalty: float | None = None,
        max_length: int | None = None,
    ) -> list[str]:
        bos, eos = (self.tokenizer.token_to_id(name) for name in (BOS, EOS))
        found = beam_search(
            self.net,
            source,
            bos_id=bos,
            eos_id=eos,
            max_length=max_length,
            beam=self.beam if beam is None else beam,
            length_penalty=self.length_penalty if length_penalty is None else length_penalty,
        )
        return self.tokenizer.decode_batch(found)
