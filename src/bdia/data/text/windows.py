"""Windows of a token stream as batches."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdia.data.loader import DealtLoader, seeded_generator


class TokenLoader(DealtLoader):
    """Windows of T + 1 tokens, T apart, of one token stream: (B, T + 1) int64 on `device`.

    Inputs are `window[:, :-1]`, labels `window[:, 1:]`: neighbours share one token, which is the last label of one
    and the first input of the other, so that no token is a label twice in an epoch.

    Training: the first window starts at one of the first T tokens, another in each epoch; there are N // T - 1
    windows wherever the first starts. Evaluation: from the first token; what is left behind the last whole window is
    dropped.

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
            batch_size, rank, world_size: as in `DealtLoader`.
            shuffle_seed: seed of starts and order; None for evaluation.
            device: where batches are wanted.
        """
        super().__init__(batch_size, shuffle_seed, rank, world_size)
        self.tokens, self.context, self.device = tokens, context, torch.device(device)

    @property
    def resident_bytes(self) -> int:
        """None: tokens are copied batch by batch."""
        return 0

    @property
    def items(self) -> int:
        """Count the windows of one epoch, all ranks together."""
        if self.shuffle_seed is None:
            return max(len(self.tokens) - 1, 0) // self.context
        return max(len(self.tokens) // self.context - 1, 0)

    def offset(self, epoch: int) -> int:
        """Return the place of an epoch's first token, 0..T-1; 0 in evaluation."""
        if self.shuffle_seed is None:
            return 0
        generator = seeded_generator("offset", self.shuffle_seed, epoch)
        return int(torch.randint(self.context, (1,), generator=generator))

    def collate(self, chosen: Tensor, epoch: int, index: int) -> tuple[Tensor]:
        """Return (windows (B, T + 1) int64,)."""
        starts = self.offset(epoch) + chosen.numpy() * self.context
        windows = self.tokens[starts[:, None] + np.arange(self.context + 1)]
        batch = torch.from_numpy(windows.astype(np.int64))
        # From pinned memory the copy runs beside the kernels that are queued; otherwise it would wait for them.
        return (batch.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else batch,)

    def plan(self) -> dict[str, Any]:
        """Number of tokens and window too."""
        return {"tokens": len(self.tokens), "context": self.context, **super().plan()}
