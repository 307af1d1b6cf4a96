"""Pack side information: residues of 0 to 8 bits, one bit plane after the other, eight activations to a byte."""

import math

import torch
from torch import Tensor

_GATHER = 0x0102040810204080  # multiplied by eight bytes of 0/1, leaves their eight bits in the top byte
_SPREAD = 0x0101010101010101  # copies one byte to eight
_ONE_BIT_EACH = 0x8040201008040201 - 2**64  # as int64: byte i keeps bit i


def _check_side_bits(side_bits: int) -> None:
    if not 0 <= side_bits <= 8:
        raise ValueError(f"side_bits={side_bits}: wanted 0 to 8")


def _pack_plane(plane: Tensor) -> Tensor:
    """(8 n,) uint8 of 0/1 -> (n,) uint8. Eight bytes are read as one little-endian int64."""
    return (plane.view(torch.int64) * _GATHER >> 56).to(torch.uint8)


def _unpack_plane(packed: Tensor) -> Tensor:
    """(n,) uint8 -> (8 n,) bool."""
    return (packed.to(torch.int64).mul_(_SPREAD).bitwise_and_(_ONE_BIT_EACH)).view(torch.uint8).ne(0)


def pack_side_info(side: Tensor, side_bits: int) -> Tensor:
    """Pack integers in 0..2^side_bits - 1, any shape, into bytes.

    Returns:
        (side_bits, ceil(numel / 8)) uint8, lowest bit plane first: side_bits / 8 bytes per activation.
    Raises:
        ValueError: side_bits outside 0..8.
    """
    _check_side_bits(side_bits)
    length = math.ceil(side.numel() / 8)
    values = side.new_zeros(8 * length, dtype=torch.uint8)
    values[: side.numel()] = side.reshape(-1)
    planes = [_pack_plane(values >> bit & 1) for bit in range(side_bits)]
    return torch.stack(planes) if planes else values.new_empty(0, length)


def unpack_side_info(packed: Tensor, side_bits: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Invert `pack_side_info`: uint8 of the given shape."""
    _check_side_bits(side_bits)
    count = math.prod(shape)
    side = packed.new_zeros(count)
    for bit in range(side_bits):
        side |= _unpack_plane(packed[bit])[:count].to(torch.uint8) << bit
    return side.view(shape)
