"""Side information: side_bits bits per activation, eight activations to a byte and plane."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bdia.reversible import pack_residues, unpack_residues


@settings(max_examples=150, deadline=None, derandomize=True)
@given(side_bits=st.integers(0, 8), shape=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_unpack_inverts_pack_for_any_bits_and_any_element_count(side_bits, shape, seed):
    side = torch.randint(0, 2**side_bits, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    packed = pack_residues(side, side_bits)
    assert torch.equal(unpack_residues(packed, side_bits, side.shape), side)
    assert packed.dtype == torch.uint8
    assert packed.untyped_storage().nbytes() == side_bits * shape[0] * math.ceil(math.prod(shape[1:]) / 8)


@pytest.mark.parametrize("side_bits", range(1, 9))
def test_every_value_at_every_position_survives(side_bits):
    side = torch.arange(2**side_bits, dtype=torch.int32).repeat_interleave(9).view(1, -1)
    assert torch.equal(unpack_residues(pack_residues(side, side_bits), side_bits, side.shape), side)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_any_integer_dtype_packs_to_the_same_bytes(dtype):
    side = torch.tensor([[1, 0, 0, 1, 1, 1, 0, 1, 0, 1]])
    assert torch.equal(pack_residues(side.to(dtype), 1), pack_residues(side, 1))


def test_a_transposed_tensor_packs_in_its_own_order():
    side = torch.randint(0, 4, (6, 5), dtype=torch.int32).T
    assert torch.equal(unpack_residues(pack_residues(side, 2), 2, side.shape), side)


def test_packing_leaves_its_input_alone():
    side = torch.randint(0, 8, (3, 11), dtype=torch.uint8)
    before = side.clone()
    unpack_residues(pack_residues(side, 3), 3, side.shape)
    assert torch.equal(side, before)


@pytest.mark.parametrize("side_bits", [-1, 9])
def test_more_than_a_byte_per_activation_is_refused(side_bits):
    with pytest.raises(ValueError, match=f"side_bits={side_bits}"):
        pack_residues(torch.zeros(8, dtype=torch.int32), side_bits)
    with pytest.raises(ValueError, match=f"side_bits={side_bits}"):
        unpack_residues(torch.zeros(1, 1, dtype=torch.uint8), side_bits, (8,))
