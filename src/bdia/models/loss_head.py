"""Cross-entropy over a large vocabulary without keeping the logits. N tokens, D width, V vocabulary."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LossHead(nn.Module):
    """Linear head and cross-entropy, `chunk` tokens at a time; a chunk's logits are computed again in backward.

    Memory: about three (chunk, V) tensors at once instead of three (N, V); with 4,096 tokens, GPT-2's 50,257 words and
    float32, (N, V) is 785 MiB. Time: the head's forward runs twice.

    Args:
        chunk: tokens per chunk; None computes all at once and keeps the logits, as PyTorch's cross-entropy does.
        ignore_index: targets that do not count (padding); None counts all.
    """

    memory_category = "loss_head"  # what PeakMemory books the tensors made here under

    def __init__(self, chunk: int | None = 1024, ignore_index: int | None = None):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(
                f"chunk={chunk}: wanted at least 1 token, or null for all at once; set model.net.loss_chunk"
            )
        self.chunk, self.ignore_index = chunk, ignore_index

    def forward(self, hidden: Tensor, weight: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy, nat, summed over tokens that count: a scalar.

        Args:
            hidden: (N, D). weight: (V, D). target: (N,) int64.
            label_smoothing: share of the probability spread evenly over the vocabulary.
        """

        def part(hidden: Tensor, target: Tensor) -> Tensor:
            ignored = -100 if self.ignore_index is None else self.ignore_index
            logits = F.linear(hidden, weight).float()
            return F.cross_entropy(
                logits, target, reduction="sum", ignore_index=ignored, label_smoothing=label_smoothing
            )

        if self.chunk is None:
            return part(hidden, target)
        sums = []
        for piece in zip(hidden.split(self.chunk), target.split(self.chunk), strict=True):
            sums.append(
                checkpoint(part, *piece, use_reentrant=False, preserve_rng_state=False)
                if torch.is_grad_enabled()
                else part(*piece)
            )
        return torch.stack(sums).sum()
