"""Dropout with a mask of one byte, whose random numbers do not cost more than the layer before it."""

import torch
from torch import Tensor, nn
from torch.autograd import Function

LEVELS = 2**16  # a 16-bit random number decides about one entry on the CPU


class Dropout(nn.Dropout):
    """`nn.Dropout` that keeps a mask of one byte per entry for backward on every device, and draws it fast on the CPU.

    PyTorch's CPU dropout keeps its mask as float32, four times the bytes. Its generator makes one number per entry,
    a sixth of a training step of the paper's ViT and more where blocks are recomputed; here four entries share a draw
    of 64 bits, so the rate is a multiple of 1 / LEVELS, and kept entries are scaled by the rate that this gives.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x with entries dropped at rate p in training, x itself in `eval()`."""
        if not (self.training and self.p):
            return x
        dropped = round(self.p * LEVELS)
        if x.device.type != "cpu" or not 0 < dropped < LEVELS:
            return torch.native_dropout(x, self.p, True)[0]
        return _Drop.apply(x, _draw_mask(x.shape, dropped), LEVELS / (LEVELS - dropped))


class _Drop(Function):
    """x * keep * scale: one new tensor each way, where autograd's own products would make two in backward."""

    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None, None


def _draw_mask(shape: torch.Size, dropped: int) -> Tensor:
    """Return bytes, 0 with probability dropped / LEVELS and else 1, drawn from torch's generator on the CPU."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = draws.view(torch.int16)[: shape.numel()].view(shape)
    keep = torch.empty(shape, dtype=torch.uint8)  # as bool this would take twice the time
    return torch.ge(draws, dropped - LEVELS // 2, out=keep)
