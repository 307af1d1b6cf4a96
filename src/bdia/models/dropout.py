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
        return _Drop.apply(x, _draw_mask(x, dropped), LEVELS / (LEVELS - dropped))


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


def _draw_mask(x: Tensor, dropped: int) -> Tensor:
    """Return bytes of x's shape, 0 with probability dropped / LEVELS and else 1, drawn from torch's generator."""
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    return _mask(draws.view(torch.int16)[: x.numel()].view(x.shape), dropped)


def _mask(draws: Tensor, dropped: int) -> Tensor:
    """Return 0 for the `dropped` lowest of the LEVELS values of an int16, else 1; as bool this takes twice the time."""
    keep = torch.empty(draws.shape, dtype=torch.uint8, device=draws.device)
    return torch.ge(draws, dropped - LEVELS // 2, out=keep)
