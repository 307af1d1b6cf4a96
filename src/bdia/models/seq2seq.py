"""Encoder-decoder transformer for translation; encoder and decoder each run on a stack.

B batch, S source tokens, T target tokens, D width, K blocks, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bdia import InvalidValueError
from bdia.models.attention import CrossAttention, KeyValueCache, SelfAttention
from bdia.models.blocks import Block, DecoderBlock, MergeStreams, feed_forward
from bdia.models.dropout import Dropout
from bdia.models.layers import reset_parts
from bdia.models.loss_head import LossHead


class Seq2SeqTransformer(nn.Module):
    """Pre-norm encoder-decoder with sinusoidal positions; the logits reuse the target embedding.

    The defaults are the paper's size, 6 + 6 blocks; D = 512 and 8 heads are those of the transformer it starts from.
    Source: Vaswani et al., "Attention Is All You Need" (2017), in pre-norm form.

    Args:
        stack: called once with the encoder's blocks and once with the decoder's; returns the stack.
        vocab_size: V, one vocabulary for both languages.
        width, heads, mlp_hidden: D, H, hidden width of the MLPs.
        encoder_depth, decoder_depth: K of each.
        positions: longest source and longest target.
        dropout: rate on embeddings, outputs of the attentions and both layers of the MLPs.
        attention_dropout: rate on the attention probabilities.
        embeddings: "shared" uses one table for source, target and logits; "separate" gives the source its own.
        loss_chunk: tokens per chunk of the cross-entropy, see `LossHead`.
    """

    pad_id = 0  # token that fills up short sequences, in every tokenizer of bdia.data
    positions: Tensor

    def __init__(
        self,
        stack: Callable[[list[nn.Module]], nn.Module],
        vocab_size: int,
        width: int = 512,
        heads: int = 8,
        mlp_hidden: int = 2048,
        encoder_depth: int = 6,
        decoder_depth: int = 6,
        positions: int = 512,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        embeddings: Literal["shared", "separate"] = "shared",
        loss_chunk: int | None = 256,
    ):
        super().__init__()
        if embeddings not in ("shared", "separate"):
            raise InvalidValueError(
                f'embeddings={embeddings!r}: wanted "shared" or "separate"; set model.net.embeddings'
            )
        self.scale = math.sqrt(width)
        self.target_tokens = nn.Embedding(vocab_size, width)
        self.source_tokens = self.target_tokens if embeddings == "shared" else nn.Embedding(vocab_size, width)
        self.register_buffer("positions", sinusoids(positions, width), persistent=False)
        self.dropout = Dropout(dropout)

        def attention(causal: bool) -> SelfAttention:
            return SelfAttention(width, heads, causal, dropout, attention_dropout)

        def mlp() -> nn.Module:
            return feed_forward(width, mlp_hidden, dropout, hidden_dropout=dropout)

        self.encoder = stack([Block(width, attention(causal=False), mlp()) for _ in range(encoder_depth)])
        self.encoder_join = MergeStreams(width, self.encoder.streams)
        cross = [CrossAttention(width, heads, dropout, attention_dropout) for _ in range(decoder_depth)]
        self.decoder = stack([DecoderBlock(width, attention(causal=True), layer, mlp()) for layer in cross])
        self.decoder_join = MergeStreams(width, self.decoder.streams)
        self.loss_head = LossHead(loss_chunk, ignore_index=self.pad_id)
        self._draw_weights()
        self.register_load_state_dict_post_hook(_after_loading)

    def init_weights(self) -> None:
        """Draw all weights anew: after `to_empty`, for a model that was built on torch's meta device."""
        reset_parts(self)
        self._draw_weights()
        self._rebuild_positions()

    def _rebuild_positions(self) -> None:
        """Compute the sinusoids, which no state dict has, where the weights are."""
        with torch.device("cpu"):
            table = sinusoids(*self.positions.shape)
        self.positions = table.to(self.target_tokens.weight)

    def _draw_weights(self) -> None:
        width = self.positions.shape[1]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=width**-0.5)

    def _embed(self, tokens: Tensor, table: nn.Embedding, start: int = 0) -> Tensor:
        end = start + tokens.shape[1]
        if end > self.longest:
            raise InvalidValueError(
                f"a sequence of {end} tokens, wanted at most {self.longest}: set model.net.positions"
            )
        return self.dropout(table(tokens) * self.scale + self.positions[start:end])

    @property
    def longest(self) -> int:
        """Most tokens of a source or a target."""
        return len(self.positions)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's output (B, S, D) and its mask (B, 1, 1, S), False at padding, of source (B, S) int64.

        Raises:
            ValueError: more tokens than positions.
        """
        mask = (source != self.pad_id)[:, None, None, :]
        return self.encoder_join(self.encoder(self._embed(source, self.source_tokens), mask=mask)), mask

    def decode(self, target: Tensor, memory: Tensor, mask: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return what the logits are made of, (B, T, D), for target (B, T) int64; with a cache, for its next tokens.

        A token sees itself, those before it, and the source that the mask shows. Padding follows the tokens, so none
        of them sees it.

        Raises:
            ValueError: more tokens than positions.
        """
        start = 0 if cache is None else cache.length
        x = self._embed(target, self.target_tokens, start)
        if cache is not None:
            cache.length = start + target.shape[1]
        return self.decoder_join(self.decoder(x, memory, mask, cache=cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return nn.functional.linear(hidden, self.target_tokens.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the logits (B, T, V) of the token after each of target (B, T), given source (B, S)."""
        return self.logits(self.decode(target, *self.encode(source)))

    def nll(
        self, source: Tensor, inputs: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy, nat, summed over the labels that are not padding, and their number."""
        hidden = self.decode(inputs, *self.encode(source)).flatten(0, 1)
        total = self.loss_head(hidden, self.target_tokens.weight, labels.flatten(), label_smoothing)
        return total, (labels != self.pad_id).sum()


def _after_loading(model: Seq2SeqTransformer, keys: object) -> None:
    """A hook of its own, and no lambda, so that a model can be pickled."""
    model._rebuild_positions()


def sinusoids(positions: int, width: int) -> Tensor:
    """Return (positions, width): sines in the first half, cosines in the second, wavelengths 2 pi to 20,000 pi."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()[:, : width // 2]], dim=1)[:, :width]
