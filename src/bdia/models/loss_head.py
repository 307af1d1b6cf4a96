"""Cross-entropy over a large vocabulary without keeping the logits. N tokens, D width, V vocabulary."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bdia import InvalidValueError


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies; backward computes each chunk's logits again and adds to one weight gradient."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, target: Tensor, chunk: int, ignored: int, smoothing: float):
        """Return the sum; keeps the inputs only."""
        ctx.save_for_backward(hidden, weight, target)
        ctx.chunk, ctx.ignored, ctx.smoothing = chunk, ignored, smoothing
        pieces = zip(hidden.split(chunk), target.split(chunk), strict=True)
        return torch.stack(
            [_cross_entropy(part @ weight.T, labels, ignored, smoothing) for part, labels in pieces]
        ).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sum: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden and weight."""
        hidden, weight, target = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        pieces = (tensor.split(ctx.chunk) for tensor in (hidden, target, grad_hidden))
        for part, labels, grad_part in zip(*pieces, strict=True):
            grad_logits = _grad_logits((part @ weight.T).float(), labels, ctx.ignored, ctx.smoothing)
            grad_logits = grad_logits.mul_(grad_sum).to(weight.dtype)
            torch.mm(grad_logits, weight, out=grad_part)
            if part.dtype == torch.float32:
                grad_weight.addmm_(grad_logits.T, part)
            else:  # the sum over chunks stays in float32
                grad_weight.add_(grad_logits.T @ part)
        return grad_hidden, grad_weight, None, None, None, None


def _cross_entropy(logits: Tensor, target: Tensor, ignored: int, smoothing: float) -> Tensor:
    return F.cross_entropy(logits.float(), target, reduction="sum", ignore_index=ignored, label_smoothing=smoothing)


def _grad_logits(logits: Tensor, target: Tensor, ignored: int, smoothing: float) -> Tensor:
    """Return softmax(logits) - (1 - smoothing) onehot(target) - smoothing / V, written over the logits."""
    gradient = logits.sub_(logits.logsumexp(dim=1, keepdim=True)).exp_().sub_(smoothing / logits.shape[1])
    counts = (target != ignored)[:, None]
    hit = target[:, None].where(counts, 0)
    return gradient.scatter_add_(1, hit, gradient.new_full(hit.shape, smoothing - 1)).mul_(counts)


class LossHead(nn.Module):
    """Linear head and cross-entropy, `chunk` tokens at a time; a chunk's logits are computed again in backward.

    Memory: in backward a chunk's logits, which become their own gradient, (chunk, V), and one gradient of the weight,
    (V, D). All at once they are three tensors of (N, V), 785 MiB each with 4,096 tokens, GPT-2's 50,257 words, float32.
    Time: the head's forward runs twice.

    Args:
        chunk: tokens per chunk; None computes all at once and keeps the logits, as PyTorch's cross-entropy does.
        ignore_index: targets that do not count (padding); None counts all.
    Raises:
        ValueError: a chunk of no token.
    """

    memory_category = "loss_head"  # what PeakMemory books the tensors made here under

    def __init__(self, chunk: int | None = 256, ignore_index: int | None = None):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise InvalidValueError(
                f"chunk={chunk}: wanted 1 token or more, or null for all at once; set model.net.loss_chunk"
            )
        self.chunk, self.ignore_index = chunk, ignore_index

    def forward(self, hidden: Tensor, weight: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy, nat, summed over tokens that count: a scalar.

        Args:
            hidden: (N, D). weight: (V, D). target: (N,) int64.
            label_smoothing: share of the probability spread evenly over the vocabulary.
        """
        ignored = -100 if self.ignore_index is None else self.ignore_index
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            hidden, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (hidden, weight))
        with torch.autocast(device, enabled=False):
            if self.chunk is None:
                return _cross_entropy(hidden @ weight.T, target, ignored, label_smoothing)
            return _ChunkedCrossEntropy.apply(hidden, weight, target, self.chunk, ignored, label_smoothing)
