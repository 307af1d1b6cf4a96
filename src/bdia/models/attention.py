"""Multi-head attention for text: over the sequence itself (causal or masked) and over another one, with a cache.

B batch, T query tokens, S source tokens, D width, H heads. Masks are boolean, True where a token may be looked at.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdia import InvalidValueError, UnsupportedError
from bdia.models.dropout import Dropout
from bdia.models.heads import in_head_groups

KeysValues = tuple[Tensor, Tensor]  # each (B, H, tokens, D / H)


class KeyValueCache:
    """Keys and values of what was decoded before, one entry per attention module; empty at the start of a sequence."""

    def __init__(self) -> None:
        self.entries: dict[nn.Module, KeysValues] = {}
        self.length = 0  # tokens decoded so far; the model that decodes counts them

    def extend(self, owner: nn.Module, keys: Tensor, values: Tensor) -> KeysValues:
        """Add the keys and values of new tokens; return those of all tokens."""
        if owner in self.entries:
            before = self.entries[owner]
            keys, values = torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        self.entries[owner] = keys, values
        return keys, values

    def once(self, owner: nn.Module, make: Callable[[], KeysValues]) -> KeysValues:
        """Return the owner's entry, made at the first call: a source sequence does not change."""
        if owner not in self.entries:
            self.entries[owner] = make()
        return self.entries[owner]

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64, any number, repeats allowed) of the batch: what beam search does after a step."""
        self.entries = {owner: (k[rows], v[rows]) for owner, (k, v) in self.entries.items()}


class _Attention(nn.Module):
    """Heads, output projection and dropout; subclasses make queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise InvalidValueError(
                f"width {width} is not a multiple of heads={heads}: change model.net.heads or model.net.width"
            )
        self.heads, self.attention_dropout = heads, attention_dropout
        self.proj = nn.Linear(width, width)
        self.proj_drop = Dropout(dropout)

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts * D) -> parts tensors (B, H, T, D / H)."""
        return x.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        out = self._mix(q, k, v, mask, is_causal)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        rate = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, is_causal=is_causal)


class SelfAttention(_Attention):
    """Attention of a sequence over itself.

    Args:
        width, heads: D and H.
        causal: a token sees itself and those before it; otherwise all that the mask allows.
        dropout: rate on the output.
        attention_dropout: rate on the attention probabilities; above 0, PyTorch's CPU kernel keeps (B, H, T, T).
    Raises:
        ValueError: D is not a multiple of H.
    """

    def __init__(
        self, width: int, heads: int, causal: bool, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__(width, heads, dropout, attention_dropout)
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the attention branch (B, T, D) of x (B, T, D).

        Args:
            x: the sequence, or with a cache its new tokens.
            mask: (B, 1, 1, S) or None; without a causal order only.
            cache: holds the tokens before x.
        """
        q, k, v = self._split(self.qkv(x), 3)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        new, known = q.shape[2], k.shape[2]
        if not self.causal or new == 1 < known:
            return self._attend(q, k, v, mask, is_causal=False)
        if new == known:
            return self._attend(q, k, v, None, is_causal=True)
        seen = torch.ones(new, known, dtype=torch.bool, device=x.device).tril(known - new)
        return self._attend(q, k, v, seen, is_causal=False)

    def forward_in_parts(
        self,
        parts: int,
        run: Callable[..., Tensor],
        x: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Compute `forward` without a cache in `parts` groups of heads, for `stack.tile`; see `in_head_groups`.

        Raises:
            RuntimeError: there is a cache.
        """
        if cache is not None:
            raise UnsupportedError("tile: attention with a cache cannot run in groups of heads: generate in eval()")
        masks = None if self.causal else mask
        out = in_head_groups(self._mix, self.qkv, self.heads, parts, run, x, masks, self.causal)
        return self.proj_drop(self.proj(out))


class CrossAttention(_Attention):
    """Attention of a sequence over another one, the encoder's output.

    Args:
        width, heads, dropout, attention_dropout: as in `SelfAttention`; the other sequence has the same width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0) -> None:
        super().__init__(width, heads, dropout, attention_dropout)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Return the branch (B, T, D) of x (B, T, D) over memory (B, S, D), of which mask (B, 1, 1, S) shows a part."""
        (q,) = self._split(self.q(x), 1)
        k, v = self._project(memory) if cache is None else cache.once(self, lambda: self._project(memory))
        return self._attend(q, k, v, mask, is_causal=False)

    def _project(self, memory: Tensor) -> KeysValues:
        return self._split(self.kv(memory), 2)
