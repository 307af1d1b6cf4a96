"""Random configurations of the engine: reversible = stored = oracle."""

import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import nn

from bdia.reversible import BdiaStack, GridOverflowError, RevVitStack, TwoPoint
from bdia.reversible.arithmetic.reference import reference_forward
from helpers.reversible_helpers import assert_bit_equal, assert_equal_tensors, gradients, make_blocks, make_tokens

some = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
fractions = st.fractions(min_value="1/16", max_value="3/2", max_denominator=16)  # larger ones leave the range
dtypes = st.sampled_from([None, torch.float64, torch.float16, torch.bfloat16])
shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.just(8))


class Cast(nn.Module):
    """A block whose output has another dtype than the residual stream."""

    def __init__(self, block, dtype):
        super().__init__()
        self.block, self.dtype = block, dtype

    def forward(self, x):
        return self.block(x).to(self.dtype or torch.float32)


@some
@given(
    depth=st.integers(1, 7),
    keep=st.integers(0, 3),
    bits=st.integers(1, 14),
    value=fractions,
    shape=shapes,
    dtype=dtypes,
    per=st.sampled_from(["sample", "batch"]),
    dropout=st.sampled_from([0.0, 0.2]),
    drop_path=st.sampled_from([0.0, 0.3]),
    autocast=st.sampled_from([None, torch.bfloat16]),
    frozen=st.sets(st.integers(0, 6)),
    needs_input=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_configuration_trains_exactly(
    depth, keep, bits, value, shape, dtype, per, dropout, drop_path, autocast, frozen, needs_input, seed
):
    blocks = make_blocks(depth, dropout, drop_path, seed, width=8)
    for k in frozen & set(range(depth)):
        blocks[k].requires_grad_(False)
    if not needs_input and frozen >= set(range(depth)):
        blocks[-1].requires_grad_()
    blocks = [Cast(block, dtype) for block in blocks]
    x, law = make_tokens(seed, shape).detach().requires_grad_(needs_input), TwoPoint(value, per)
    try:
        wanted = gradients(BdiaStack(blocks, law, bits, backward="stored"), x, seed=seed, autocast=autocast)
    except GridOverflowError:  # at 14 bits the grid ends at 1024
        reject()
    found = gradients(BdiaStack(blocks, law, bits, keep), x, seed=seed, autocast=autocast)
    assert_equal_tensors(found, wanted)  # stochastic depth may drop every branch, so zeros are possible


@some
@given(depth=st.integers(1, 7), bits=st.integers(4, 12), value=fractions, shape=shapes, seed=st.integers(0, 99))
def test_any_training_stream_is_the_oracle_s(depth, bits, value, shape, seed):
    blocks, x, law = make_blocks(depth, seed=seed, width=8), make_tokens(seed, shape), TwoPoint(value)
    torch.manual_seed(seed)
    with torch.no_grad():
        found = BdiaStack(blocks, law, bits)(x)
    torch.manual_seed(seed)
    gammas = [None, *(law.sample(shape[0]) for _ in range(depth - 1))]
    assert torch.equal(found, reference_forward(blocks, x, gammas, bits)[-1])


@some
@given(
    depth=st.integers(1, 5),
    bits=st.integers(4, 12),
    shape=shapes,
    merge=st.sampled_from(["mean", "concat"]),
    seed=st.integers(0, 99),
)
def test_any_revvit_on_the_grid_takes_its_training_gradients_from_the_same_streams_as_stored(
    depth, bits, shape, merge, seed
):
    # No dropout, so evaluation mode is the same function with everything stored.
    blocks, x = make_blocks(depth, seed=seed, width=8), make_tokens(seed, shape)
    stack = RevVitStack(blocks, bits, merge)
    assert_bit_equal(gradients(stack.train(), x), gradients(stack.eval(), x))
