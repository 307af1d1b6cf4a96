"""Pack side information: residues of 0 to 8 bits, one bit plane after the other, eight activations to a byte.

A sample's n activations are eight lanes of ceil(n / 8); bit j of a byte belongs to lane j, so that packing reads and
writes whole vectors. B batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bdia import InvalidValueError


def _check_side_bits(side_bits: int) -> None:
    if not 0 <= side_bits <= 8:
        raise InvalidValueError(f"side_bits={side_bits}: wanted 0 to 8")


def packed_shape(shape: torch.Size | tuple[int, ...], side_bits: int) -> tuple[int, int, int]:
    """Return the shape of the packed residues of a tensor of shape (B, ...): (B, side_bits, ceil(n / 8))."""
    return shape[0], side_bits, math.ceil(math.prod(shape[1:]) / 8)


def pack_lanes(lanes: Tensor, side_bits: int) -> Tensor:
    """Pack int32 residues (B, 8, length) into (B, side_bits, length) uint8."""
    planes = []
    for bit in range(side_bits):
        plane = lanes >> bit & 1
        packed = plane[:, 0]
        for lane in range(1, 8):
            packed = packed | (plane[:, lane] << lane)
        planes.append(packed.to(torch.uint8))
    return torch.stack(planes, dim=1) if planes else lanes.new_empty(len(lanes), 0, lanes.shape[2], dtype=torch.uint8)


def unpack_lanes(packed: Tensor, side_bits: int) -> Tensor:
    """Invert `pack_lanes`."""
    lane = torch.arange(8, dtype=torch.int32, device=packed.device).view(1, 8, 1)
    lanes = torch.zeros((), dtype=torch.int32, device=packed.device).expand(len(packed), 8, packed.shape[2])
    for bit in range(side_bits):
        lanes = lanes | (packed[:, bit, None].to(torch.int32) >> lane & 1) << bit
    return lanes


def pack_residues(side: Tensor, side_bits: int) -> Tensor:
    """Pack integers in 0..2^side_bits - 1, shape (B, ...), into bytes.

    Returns:
        (B, side_bits, ceil(n / 8)) uint8, lowest bit plane first: side_bits / 8 bytes per activation.
    Raises:
        ValueError: side_bits outside 0..8.
    """
    _check_side_bits(side_bits)
    batch, _, length = packed_shape(side.shape, side_bits)
    count = math.prod(side.shape[1:])
    padded = F.pad(side.to(torch.int32).reshape(batch, count), (0, 8 * length - count))
    return pack_lanes(padded.view(batch, 8, length), side_bits)


def unpack_residues(packed: Tensor, side_bits: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Invert `pack_residues`: int32 of the given shape (B, ...)."""
    _check_side_bits(side_bits)
    lanes = unpack_lanes(packed, side_bits)
    return lanes.reshape(shape[0], 8 * packed.shape[2])[:, : math.prod(shape[1:])].reshape(shape)
