"""Dropout that keeps little for backward, and whose random numbers do not cost more than the layer before it."""

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bdia.reversible.engine.compiled import planned_device, run_compiled, worth_compiling

LEVELS = 2**16  # a 16-bit random number decides about one entry on the CPU
PLACES = 2**31  # entries that the hash can number
SLICE = 2**15  # entries whose temporaries stay in cache


class Dropout(nn.Dropout):
    """`nn.Dropout` that keeps no mask of a large tensor on the CPU, one byte per entry elsewhere, and draws it fast.

    PyTorch's CPU dropout keeps its mask as float32. Its generator makes one number per entry, a sixth of a training
    step of the paper's ViT and more where blocks are recomputed. Here a hash decides for each entry of a large tensor
    whether it is kept: a hash of the entry's place and of 64 bits drawn from torch's generator. Backward computes it
    again. In a smaller tensor four entries share a draw of 64 bits. So the rate is a multiple of 1 / LEVELS, and kept
    entries are scaled by that rate. On a GPU the dropout is PyTorch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x with entries dropped at rate p in training, x itself in `eval()`."""
        if not (self.training and self.p):
            return x
        dropped = round(self.p * LEVELS)
        compiling = torch.compiler.is_compiling()
        device = x.device.type if compiling else planned_device(x) or x.device.type
        if device != "cpu" or not 0 < dropped < LEVELS or x.numel() >= PLACES:
            return torch.native_dropout(x, self.p, True)[0]
        if compiling or worth_compiling(x):
            key = torch.randint(-(2**31), 2**31 - 1, (2,), dtype=torch.int32, device=x.device)
            return _DropByHash.apply(x, key, dropped)
        return _DropByMask.apply(x, _draw_mask(x, dropped), _scale(dropped))


def _scale(dropped: int) -> float:
    return LEVELS / (LEVELS - dropped)


# --- a mask of bytes, kept for backward ---


class _DropByMask(Function):
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


# --- no mask: a hash of an entry's place, in backward once more ---


class _DropByHash(Function):
    """x * scale * keep, keep by the key of two int32: one kernel each way where a compiler works."""

    @staticmethod
    def forward(ctx, x: Tensor, key: Tensor, dropped: int) -> Tensor:
        ctx.save_for_backward(key)
        ctx.dropped = dropped
        return _drop(x, key, dropped)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (key,) = ctx.saved_tensors
        return _DropByHash.apply(grad, key, ctx.dropped), None, None


def _drop(x: Tensor, key: Tensor, dropped: int) -> Tensor:
    limit = torch.tensor(dropped, dtype=torch.int32, device=x.device)
    scale = torch.tensor(_scale(dropped), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    flat = x.reshape(-1)
    if torch.compiler.is_compiling():  # within a compiled block: the compiler fuses it there
        return _kept(flat, 0, key, limit, scale).view(x.shape)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    flat_out = out.view(-1).data
    if not run_compiled(_fused_drop, flat_out, flat.data, key, limit, scale):
        for start in range(0, len(flat), SLICE):
            part = slice(start, start + SLICE)
            flat_out[part] = _kept(flat[part], start, key, limit, scale)
    return out


def _fused_drop(out: Tensor, x: Tensor, key: Tensor, limit: Tensor, scale: Tensor) -> None:
    out.copy_(_kept(x, 0, key, limit, scale))


def _kept(x: Tensor, start: int, key: Tensor, limit: Tensor, scale: Tensor) -> Tensor:
    """Return x * scale where the entry is kept, else 0; x (n,) is the tensor's entries from `start` on."""
    place = torch.arange(start, start + len(x), dtype=torch.int32, device=x.device)
    level = _shifted(hashed(place, key), 16)
    return x * scale * ((level - limit >> 31) + 1)  # a product, for eager selections are ten times slower


def hashed(place: Tensor, key: Tensor) -> Tensor:
    """Return 32 random bits for each place (n,) int32 under a key (2,) int32.

    A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with an integer
    hash in place of a cipher: triple32 of C. Wellons' hash prospector, the key's two halves added before and after
    its first product.
    """
    bits = place + key[0]
    bits = (_shifted(bits, 17) ^ bits) * (0xED5AD4BB - 2**32) + key[1]
    bits = (_shifted(bits, 11) ^ bits) * (0xAC4C1B51 - 2**32)
    bits = (_shifted(bits, 15) ^ bits) * 0x31848BAB
    return _shifted(bits, 14) ^ bits


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift right, zeros moving in; torch's own shift of an int32 moves the sign in."""
    return bits >> count & (1 << 32 - count) - 1
