"""Windows of a token stream as batches."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bdia.data.loader import EpochLoader, seeded_generator


class TokenLoader(EpochLoader):
    """Windows of T + 1 tokens, T apart, of one token stream: (B, T + 1) int64 on `device`.

    Inputs are `window[:, :-1]`, labels `window[:, 1:]`: neighbours share one token, which is the last label of one
    and the first input of the other, so that no token is a label twice in an epoch.

    Training (`shuffle_seed` an int): the first window starts at one of the first T tokens, another in each epoch,
    and the order is shuffled; there are N // T - 1 windows wherever the first starts. Every rank takes every
    `world_size`-th one and wraps around, so that all have equally many; the last batch holds what is left.
    Evaluation (`shuffle_seed=None`): stored order from the first token; what is left behind the last whole window is
    dropped. Each window is on exactly one rank, all ranks have the same number of batches.

    The stream stays in its file on the host; a batch is gathered there and copied.
    """

    plan_keys = "data.context, data.batch_size, data.seed, data.split_seed, data.fraction, data.source"

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        batch_size: int,
        shuffle_seed: int | None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Set what to iterate over.

        Args:
            tokens: (N,) uint16.
            context: T, tokens a model sees.
            batch_size: windows per batch *and rank*; the largest batch in evaluation.
            shuffle_seed: seed of starts and order; None for evaluation.
            device: where batches are wanted.
            rank, world_size: this process among those that share the windows.
        """
        super().__init__()
        self.tokens, self.context, self.batch_size, self.shuffle_seed = tokens, context, batch_size, shuffle_seed
        self.device, self.rank, self.world_size = torch.device(device), rank, world_size

    @property
    def resident_bytes(self) -> int:
        """None: tokens are copied batch by batch."""
        return 0

    @property
    def windows(self) -> int:
        """Count the windows of one epoch, all ranks together."""
        if self.shuffle_seed is None:
            return max(len(self.tokens) - 1, 0) // self.context
        return max(len(self.tokens) // self.context - 1, 0)

    def __len__(self) -> int:
        """Count the batches of one epoch; the same on every rank and in every epoch."""
        return math.ceil(math.ceil(self.windows / self.world_size) / self.batch_size)

    def offset(self, epoch: int) -> int:
        """Return the place of an epoch's first token, 0..T-1; 0 in evaluation."""
        if self.shuffle_seed is None:
            return 0
        generator = seeded_generator("offset", self.shuffle_seed, epoch)
        return int(torch.randint(self.context, (1,), generator=generator))

    def batch_indices(self, epoch: int) -> Sequence[Tensor]:
        """Return the window numbers of each of this rank's batches in an epoch."""
        count = self.windows
        if self.shuffle_seed is None:
            return torch.arange(self.rank, count, self.world_size).tensor_split(len(self))
        order = torch.randperm(count, generator=seeded_generator("order", self.shuffle_seed, epoch))
        places = torch.arange(self.rank, math.ceil(count / self.world_size) * self.world_size, self.world_size)
        return order[places % count].split(self.batch_size)

    def collate(self, chosen: Tensor, epoch: int, index: int) -> tuple[Tensor]:
        """Return (windows (B, T + 1) int64,)."""
        starts = self.offset(epoch) + chosen.numpy() * self.context
        windows = self.tokens[starts[:, None] + np.arange(self.context + 1)]
        batch = torch.from_numpy(windows.astype(np.int64))
        # From pinned memory the copy runs beside the kernels that are queued; otherwise it would wait for them.
        return (batch.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else batch,)

    def plan(self) -> dict[str, int | None]:
        """Number of tokens, window, batch size, seed and number of devices."""
        return {
            "tokens": len(self.tokens),
            "context": self.context,
            "batch_size": self.batch_size,
            "shuffle_seed": self.shuffle_seed,
            "world_size": self.world_size,
        }
