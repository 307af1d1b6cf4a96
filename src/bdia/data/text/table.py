"""Sequences of token ids in one tensor, on the device that trains."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

PAD_ID = 0


class TokenTable:
    """N sequences of token ids, one behind the other in one tensor.

    Args:
        tokens: (total,) int32, on the device where batches are wanted.
        lengths: (N,) int64, at least 1 each; kept on the CPU, where batches are planned, and copied to the device.
    """

    def __init__(self, tokens: Tensor, lengths: Tensor) -> None:
        self.tokens, self.lengths = tokens, lengths
        self.starts = (lengths.cumsum(0) - lengths).to(tokens.device)
        self.lengths_there = lengths.to(tokens.device)

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "TokenTable":
        """Make a table on the CPU."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        tokens = np.fromiter(chain.from_iterable(sequences), dtype=np.int32, count=int(lengths.sum()))
        return cls(torch.from_numpy(tokens), lengths)

    def to(self, device: torch.device | str) -> "TokenTable":
        """Return the table on a device."""
        return TokenTable(self.tokens.to(device), self.lengths)

    def where(self, kept: Tensor) -> "TokenTable":
        """Return the sequences where `kept`, (N,) bool, is true."""
        return TokenTable(self.tokens[kept.repeat_interleave(self.lengths)], self.lengths[kept])

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return self.tokens.nbytes + self.starts.nbytes + self.lengths_there.nbytes

    def padded(self, chosen: Tensor, longest: int) -> Tensor:
        """Return the sequences `chosen`, (B,) on the device, as (B, longest) int64, padded on the right with PAD_ID."""
        places = torch.arange(longest, device=self.tokens.device)
        inside = places < self.lengths_there[chosen][:, None]
        found = self.tokens[(self.starts[chosen][:, None] + places).where(inside, 0)]
        return found.where(inside, PAD_ID).long()
