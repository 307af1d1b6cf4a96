"""Beam search for `Seq2SeqTransformer`, batched and with a key/value cache.

B sentences, A of them still searched, W hypotheses of each, all of L tokens; S source tokens, V vocabulary.
"""

import math

import torch
from torch import Tensor

from bdia import InvalidValueError
from bdia.models.attention import KeyValueCache
from bdia.models.seq2seq import Seq2SeqTransformer


@torch.inference_mode()
def beam_search(
    net: Seq2SeqTransformer,
    source: Tensor,
    bos_id: int,
    eos_id: int,
    max_length: int | None = None,
    beam: int = 4,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """Translate a batch: of each sentence the hypothesis with the best sum of log p / length ** length_penalty.

    The sum and the length count EOS, which every hypothesis ends with: at `max_length` tokens it is the only choice.
    PAD and BOS are never chosen; log p is the net's own, not rescaled for their absence. A finished hypothesis is set
    aside and leaves its place to the next best. A sentence is done when `beam` hypotheses of it are finished, when no
    unfinished one can still win, or at `max_length`; it then leaves the batch. Of equal scores the better parent wins,
    then the lower token id.

    Args:
        net: in eval mode; this function changes no mode.
        source: (B, S) int64, padded with net.pad_id on the right.
        bos_id, eos_id: first token of every target; token that ends it.
        max_length: most tokens of a translation, BOS and EOS not counted; None is twice the sentence's own source
            tokens plus 20, as far as the net's positions go.
        beam: hypotheses kept per sentence; 1 is greedy search.
        length_penalty: 0 compares sums, which favours short translations; 1 compares means per token.
    Returns:
        Token ids per sentence, without BOS and EOS.
    Raises:
        ValueError: an argument out of range, a net in training mode, logits that are not numbers.
    """
    _check(net, max_length, beam, length_penalty)
    if not len(source):
        return []
    longest = net.longest - 1  # the input is BOS and the translation
    limits = (2 * (source != net.pad_id).sum(dim=1) + 20).clamp(max=longest)
    if max_length is not None:
        limits = torch.full_like(limits, max_length)
    search = _Search(limits, beam, length_penalty, eos_id, forbidden=[net.pad_id, bos_id])
    memory, mask = net.encode(source)
    cache, tokens = KeyValueCache(), source.new_full((len(source), 1), bos_id)
    while len(tokens):
        # After the first step the cache holds what is read of `memory`, so `memory` itself need not be reordered.
        hidden = net.decode(tokens, memory, mask, cache)
        rows = search.step(net.logits(hidden[:, -1]).float().log_softmax(dim=-1))
        cache.select(rows)
        mask, tokens = mask[rows], search.tokens[:, :, -1].reshape(-1, 1)
    return search.found


def _check(net: Seq2SeqTransformer, max_length: int | None, beam: int, length_penalty: float) -> None:
    longest = net.longest - 1
    if net.training:
        raise InvalidValueError("the net is in training mode, wanted eval mode: call net.eval() first")
    if beam < 1:
        raise InvalidValueError(f"beam={beam}: wanted at least 1 hypothesis; set beam")
    if not math.isfinite(length_penalty):
        raise InvalidValueError(f"length_penalty={length_penalty}: wanted a finite number; set length_penalty")
    if max_length is not None and not 1 <= max_length <= longest:
        raise InvalidValueError(
            f"max_length={max_length}: wanted 1 to {longest}, one less than the net's positions; set max_length, or "
            "train with a larger model.net.positions"
        )


class _Search:
    """The hypotheses of the sentences still searched, and the best finished one of every sentence.

    Attributes:
        tokens: (A, W, L). found: per sentence of the batch, the best finished hypothesis so far.
    """

    def __init__(self, limits: Tensor, beam: int, length_penalty: float, eos_id: int, forbidden: list[int]) -> None:
        count = len(limits)
        self.beam, self.length_penalty, self.eos_id, self.forbidden = beam, float(length_penalty), eos_id, forbidden
        self.found: list[list[int]] = [[] for _ in range(count)]
        self.sentences, self.limits = torch.arange(count, device=limits.device), limits  # (A,)
        self.finished, self.best = torch.zeros_like(limits), torch.full_like(limits, -math.inf, dtype=torch.float32)
        self.scores = self.best.new_zeros(count, 1)  # (A, W) sums of log p
        self.tokens = limits.new_zeros(count, 1, 0)

    def step(self, log_p: Tensor) -> Tensor:
        """Add a token to every hypothesis by log_p (A * W, V); return the rows of log_p that the new ones come from."""
        candidates = self._candidates(log_p)
        self._set_aside(*candidates)
        return self._go_on(*candidates)

    def _candidates(self, log_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (scores, parents, tokens) of the best continuations, best first, each (A, candidates)."""
        log_p = log_p.unflatten(0, self.scores.shape)  # (A, W, V)
        vocabulary = log_p.shape[2]
        log_p[..., self.forbidden] = -math.inf
        not_eos = torch.arange(vocabulary, device=log_p.device) != self.eos_id
        at_limit = self.limits == self.tokens.shape[2]
        log_p = log_p.masked_fill(at_limit[:, None, None] & not_eos, -math.inf)
        scores, places = best_first((self.scores[..., None] + log_p).flatten(1), 2 * self.beam)
        return scores, places // vocabulary, places % vocabulary

    def _set_aside(self, scores: Tensor, parents: Tensor, tokens: Tensor) -> None:
        """Keep what ended among the best candidates if it beats the sentence's best."""
        ended = (tokens == self.eos_id) & scores.isfinite()
        ended[:, self.beam :] = False
        self.finished = self.finished + ended.sum(dim=1)
        length = self.tokens.shape[2] + 1
        score, place = (scores / length**self.length_penalty).masked_fill(~ended, -math.inf).max(dim=1)
        for row in (score > self.best).nonzero().flatten().tolist():
            self.found[int(self.sentences[row])] = self.tokens[row, parents[row, place[row]]].tolist()
        self.best = torch.maximum(self.best, score)

    def _go_on(self, scores: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
        """Make the best candidates that did not end the new hypotheses; return the rows they come from."""
        width = self.scores.shape[1]
        order = (tokens == self.eos_id).int().argsort(dim=1, stable=True)  # the others first, still best first
        order = order[:, : min(self.beam, tokens.shape[1] - width)]
        scores, parents, tokens = (values.gather(1, order) for values in (scores, parents, tokens))
        going = ~self._done(scores[:, 0])
        rows = torch.arange(len(scores), device=scores.device)[:, None] * width + parents
        before = self.tokens.gather(1, parents[..., None].expand(-1, -1, self.tokens.shape[2]))
        self.tokens, self.scores = torch.cat([before, tokens[..., None]], dim=2)[going], scores[going]
        self.sentences, self.limits = self.sentences[going], self.limits[going]
        self.finished, self.best = self.finished[going], self.best[going]
        return rows[going].flatten()

    def _done(self, scores: Tensor) -> Tensor:
        """Return (A,): True if enough hypotheses have ended, or no unfinished one can still win.

        Args:
            scores: (A,), the best sum of the unfinished hypotheses.
        """
        lengths = torch.stack([torch.full_like(self.limits, self.tokens.shape[2] + 2), self.limits + 1])
        possible = (scores / lengths**self.length_penalty).amax(dim=0)  # a sum only falls: one of the ends is the best
        return (self.finished >= self.beam) | (possible <= self.best)


def best_first(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` best of scores (A, N), or all if there are fewer, best first, and their places in the row.

    As `topk`, but of equal scores the lower place comes first, on every device.

    Raises:
        ValueError: a score is not a number.
    """
    count = min(count, scores.shape[1])
    last = scores.topk(count, dim=1).values[:, -1:]
    above, equal = scores > last, scores == last
    kept = above | (equal & (equal.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))
    if not (kept.sum(dim=1) == count).all():
        raise InvalidValueError(
            "the net's logits are not numbers: its weights are NaN or infinite, take an earlier checkpoint"
        )
    places = kept.nonzero()[:, 1].unflatten(0, (-1, count))
    values, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)
