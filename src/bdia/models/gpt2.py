"""GPT-2: a decoder-only language model whose stack, size and loss head come from the config.

B batch, T tokens, D width, K blocks, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bdia import InvalidValueError
from bdia.models.attention import KeyValueCache, SelfAttention
from bdia.models.blocks import Block, MergeStreams, feed_forward
from bdia.models.dropout import Dropout
from bdia.models.gpt2_weights import load_gpt2_weights
from bdia.models.layers import reset_parts
from bdia.models.loss_head import LossHead


class Gpt2(nn.Module):
    """Token and position embeddings, K causal pre-norm blocks on a stack, LayerNorm, logits by the token embedding.

    The defaults are GPT-2 small, the paper's model: 124,439,808 parameters with 50,257 tokens.
    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and its published weights for
    what the text leaves open: tanh GELU, weights N(0, 0.02), the last layer of every branch divided by sqrt(2 K).

    Args:
        stack: called with the list of blocks, returns the stack: a module (B, T, D) -> (B, T, D * stack.streams).
        vocab_size: V.
        width, depth, heads: D, K, H; the MLP's hidden width is 4 D.
        positions: longest sequence.
        dropout: rate on the embedding and on the output of every branch.
        attention_dropout: rate on the attention probabilities; GPT-2 has 0.1, but 0 keeps PyTorch's fused kernel.
        loss_chunk: tokens per chunk of the cross-entropy, see `LossHead`.
        weights: file of GPT-2 weights in Hugging Face's layout to start from, see `load_gpt2_weights`.
    """

    def __init__(
        self,
        stack: Callable[[list[nn.Module]], nn.Module],
        vocab_size: int,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        positions: int = 1024,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        loss_chunk: int | None = 256,
        weights: str | Path | None = None,
    ):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(positions, width)
        self.dropout = Dropout(dropout)
        gelu = partial(nn.GELU, approximate="tanh")
        self.blocks = stack(
            [
                Block(
                    width,
                    SelfAttention(width, heads, causal=True, dropout=dropout, attention_dropout=attention_dropout),
                    feed_forward(width, 4 * width, dropout, hidden_dropout=0.0, activation=gelu),
                )
                for _ in range(depth)
            ]
        )
        self.join = MergeStreams(width, self.blocks.streams)
        self.loss_head = LossHead(loss_chunk)
        self._draw_weights()
        if weights is not None:
            load_gpt2_weights(self, Path(weights))

    def init_weights(self) -> None:
        """Draw all weights anew: after `to_empty`, for a model that was built on torch's meta device."""
        reset_parts(self)
        self._draw_weights()

    def _draw_weights(self) -> None:
        depth = len(self.blocks)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                last_of_branch = name.endswith((".attn.proj", ".mlp.fc2"))
                nn.init.normal_(module.weight, std=0.02 / (math.sqrt(2 * depth) if last_of_branch else 1))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def longest(self) -> int:
        """Most tokens that the model sees at once."""
        return self.positions.num_embeddings

    def hidden(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return what the logits are made of, (B, T, D), for tokens (B, T) int64; with a cache, for its next tokens.

        Raises:
            ValueError: more tokens than positions.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.longest:
            raise InvalidValueError(
                f"a sequence of {end} tokens, wanted at most {self.longest}: "
                "set model.net.positions, or data.context to a shorter one"
            )
        places = torch.arange(start, end, device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(places))
        if cache is not None:
            cache.length = end
        return self.join(self.blocks(x, cache=cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return nn.functional.linear(hidden, self.tokens.weight)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return the logits (B, T, V) of the token after each of tokens (B, T) int64."""
        return self.logits(self.hidden(tokens, cache))

    def nll(self, inputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
        """Return the cross-entropy, nat, summed over the labels, and their number; both (B, T) int64."""
        hidden = self.hidden(inputs).flatten(0, 1)
        return self.loss_head(hidden, self.tokens.weight, labels.flatten(), label_smoothing), labels.numel()
