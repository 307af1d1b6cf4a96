"""The compiled pass gives the bits of the eager one; without a compiler the eager one takes over, and says so."""

import contextlib
import warnings

import pytest
import torch
from torch._dynamo.utils import counters

import bdia.reversible.engine.compiled as compiled_module
import bdia.reversible.engine.kernels as kernels
from bdia.profiling.storage_meter import StorageMeter
from bdia.profiling.traced_step import fake_tensors
from bdia.reversible import BdiaStack, TwoPoint
from bdia.reversible.arithmetic.rules import BdiaRule, bdia_gradient_factors
from bdia.reversible.engine.compiled import CompilerWarning
from bdia.reversible.engine.kernels import bit_sum, gradient_kernel, inverse_kernel, update_kernel
from helpers.reversible_helpers import HALF, D, T, assert_bit_equal, gamma_of, gradients, make_blocks, make_tokens


@pytest.fixture(scope="module")
def compiler():
    """Skip where there is no compiler; the first kernels of this process are made here."""
    try:
        both(*step_inputs(gamma_of("1/2", "-1/2"), (2, 40)))
    except RuntimeError as error:
        pytest.skip(f"no compiler here: {error}")


@pytest.fixture
def kernels_made(compiler):
    """kernels_made(): how many kernels this test compiled so far."""
    before = counters["stats"]["unique_graphs"]
    return lambda: counters["stats"]["unique_graphs"] - before


def step_inputs(gamma, shape, dtype=torch.float32, bits=9):
    """A rule and x_prev, x_curr, y; large values too."""
    side_bits = int(gamma.denominator.max() - 1).bit_length()
    generator = torch.Generator().manual_seed(len(gamma.numerator) + shape[-1])
    x_prev, x_curr = (torch.randint(-(2**19), 2**19, shape, generator=generator) / 2**bits for _ in range(2))
    return BdiaRule(gamma, bits, side_bits), x_prev, x_curr, (50 * torch.randn(shape, generator=generator)).to(dtype)


def both(rule, x_prev, x_curr, y, note=True, verify=True):
    """What the two passes make of one update and of its inverse: two lists of tensors."""
    found = []
    for kernel in ("eager", "compiled"):
        result = update_kernel(rule, x_prev, x_curr, y, note, verify, kernel)
        rebuilt = result.x_next.clone()
        bits = inverse_kernel(rule, rebuilt, x_curr, y, result.packed, verify, kernel) if note else None
        found.append([t for t in (*result, rebuilt if note else None, bits) if t is not None])
    return found


def same_bits(a, b):
    """Whether two tensors agree in every bit: `torch.equal` does not tell -0.0 from 0.0."""
    words = [x.view(torch.int32) if x.dtype == torch.float32 else x for x in (a, b)]
    return torch.equal(*words)


# One gamma per sample: dyadic and general fractions beside each other.
MIXED = gamma_of("1/2", "-1/2", "3/5", "-7/3", "7/8", "-1/6", "5", "-5/8")


def test_compiled_and_eager_passes_agree_in_every_bit_without_compiling_again(kernels_made):
    halves = gamma_of("1/2", "-1/2", "-1/2")
    for gamma, shape in ((halves, (3, 16)), (MIXED, (8, 5, 24)), (MIXED, (8, 3, 7, 8)), (halves, (3, 65, 512))):
        for bits in (5, 9):
            eager, compiled = both(*step_inputs(gamma, shape, bits=bits))
            assert len(eager) == 6 and all(same_bits(a, b) for a, b in zip(eager, compiled, strict=True))
            assert same_bits(compiled[-2], step_inputs(gamma, shape, bits=bits)[1])
    assert kernels_made() <= 2  # each way one for several bit planes; those for one plane are there


@pytest.mark.parametrize(("note", "verify"), [(False, False), (True, False)])
def test_passes_agree_where_nothing_is_noted_or_summed_and_y_is_bfloat16(kernels_made, note, verify):
    eager, compiled = both(*step_inputs(MIXED, (8, 5, 24), torch.bfloat16), note, verify)
    assert kernels_made() and len(eager) == (4 if note else 2)
    assert all(same_bits(a, b) for a, b in zip(eager, compiled, strict=True))


def test_a_zero_of_x_next_has_no_sign_in_either_pass(compiler):
    rule, x_prev, x_curr, y = step_inputs(MIXED, (8, 5, 24))
    for zero in (0.0, -0.0, -1e-9):
        for found in both(rule, x_prev.zero_(), x_curr.zero_(), y.fill_(zero)):
            assert same_bits(found[0], torch.zeros_like(y))


def test_a_value_that_is_not_finite_reaches_the_peak_of_both_passes(kernels_made):
    rule, x_prev, x_curr, y = step_inputs(MIXED, (8, 5, 24))
    y[3, 2, 1] = torch.nan
    eager, compiled = both(rule, x_prev, x_curr, y)
    assert eager[2].isnan() and compiled[2].isnan()


def test_a_gamma_term_past_the_grid_shows_in_the_peak_of_both_passes_though_the_sum_is_on_it(compiler):
    rule, x_prev, x_curr, y = step_inputs(gamma_of("7", "7"), (2, 24))
    x_prev[1, 3] = 2.0**15 - 1  # on the grid of 9 bits, seven times it is not
    y[1, 3] = -7 / 8 * x_prev[1, 3]
    x_curr[1, 3] = 0.0
    for found in both(rule, x_prev, x_curr, y):
        assert found[2] >= 2.0**24


@pytest.mark.parametrize("shape", [(8, 24), (8, 5, 24), (8, 3, 7, 8)])
def test_compiled_and_eager_gradients_agree_in_every_bit_with_autograds(kernels_made, shape):
    through, after = (torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(2))
    factors = bdia_gradient_factors(MIXED.value, len(shape))
    wanted = through - 2 * (factors.x_prev * after), factors.x_prev * after
    with torch.no_grad():
        found = [gradient_kernel(through, after, factors, True, kernel) for kernel in ("eager", "compiled")]
    found.append(gradient_kernel(through, after, factors, True, "compiled"))  # create_graph
    assert all(torch.equal(a, b) for pair in found for a, b in zip(pair, wanted, strict=True))
    alone = gradient_kernel(through, after, factors, False, "compiled")
    assert torch.equal(alone[0], wanted[0]) and alone[1] is None


# Of five blocks the first takes no BDIA update, and the last is kept.
FIVE_BLOCKS = ["_fused_forward"] * 4 + ["_fused_gradient"] + ["_fused_inverse", "_fused_gradient"] * 3


def test_a_stack_trains_to_the_same_bits_with_either_kernel(compiler, fused_calls):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    found = gradients(BdiaStack(blocks, HALF, kernel="compiled"), x, steps=2)
    assert fused_calls == 2 * FIVE_BLOCKS
    assert_bit_equal(found, gradients(BdiaStack(blocks, HALF, kernel="eager"), x, steps=2))


@pytest.mark.parametrize("watched", ["save", "meter"])
def test_the_compiled_kernel_runs_out_of_sight_of_what_watches_operations(kernels_made, fused_calls, watched):
    torch._dynamo.reset()
    compiled_module._compiled.cache_clear()
    blocks, x = make_blocks(5, 0.1), make_tokens()
    inside = {"save": ["attention"]} if watched == "save" else {}
    with StorageMeter([x], []) if watched == "meter" else contextlib.nullcontext():
        found = gradients(BdiaStack(blocks, HALF, kernel="compiled", **inside), x)
    assert fused_calls == FIVE_BLOCKS
    assert kernels_made() >= 2
    assert_bit_equal(found, gradients(BdiaStack(blocks, HALF, kernel="eager"), x))


def test_of_fake_tensors_a_kernel_makes_its_results_and_no_temporaries():
    rule, sizes = step_inputs(MIXED, (8, 5, 24))[0], {}
    with fake_tensors():
        x = torch.empty(8, 5, 24)
        for kernel in ("compiled", "eager"):
            with StorageMeter([x], []) as meter:
                result = update_kernel(rule, x, x, x, note=True, verify=True, kernel=kernel)
            sizes[kernel] = meter.peak - sum(t.nbytes for t in (x, *result))
    assert sizes["compiled"] < x.nbytes / 4 < x.nbytes < sizes["eager"]  # the coefficients of each sample


def test_a_sample_that_is_no_multiple_of_eight_values_trains_with_the_compiled_kernel_too(fused_calls):
    blocks, x = make_blocks(4, width=5), make_tokens(shape=(3, 3, 5))
    found = gradients(BdiaStack(blocks, TwoPoint("3/5"), kernel="compiled"), x)
    assert not fused_calls
    assert_bit_equal(found, gradients(BdiaStack(blocks, TwoPoint("3/5"), kernel="eager"), x))


@pytest.fixture
def fused_calls(monkeypatch):
    """Names of the compiled passes that ran."""
    calls, run = [], kernels.run_compiled

    def note(function, *rest, **settings):
        calls.append(function.__name__)
        return run(function, *rest, **settings)

    monkeypatch.setattr(kernels, "run_compiled", note)
    return calls


@pytest.fixture
def no_compiler(monkeypatch):
    """A torch.compile that fails as it does without g++."""

    def fail(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(compiled_module, "COMPILE_FROM", 0)
    monkeypatch.setattr(compiled_module, "_broken", set())
    compiled_module._compiled.cache_clear()


def test_without_a_compiler_auto_warns_once_and_gives_the_same_bits(no_compiler):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    with pytest.warns(CompilerWarning, match=r"No working C.. compiler.*stack\.kernel=eager"):
        found = gradients(BdiaStack(blocks), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(BdiaStack(blocks), x)
    assert_bit_equal(found, gradients(BdiaStack(blocks, kernel="eager"), x))


def test_without_a_compiler_the_compiled_kernel_is_refused_with_a_hint(no_compiler):
    with pytest.raises(RuntimeError, match=r"No working C.. compiler.*stack\.kernel=eager"):
        BdiaStack(make_blocks(3), kernel="compiled")(make_tokens())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_not_taken_for_a_lack_of_a_compiler(no_compiler, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(type(error)):
        BdiaStack(make_blocks(3))(make_tokens())
    assert not compiled_module._broken


def test_a_compiler_that_fails_without_a_word_is_left_out_too(no_compiler, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.warns(CompilerWarning, match="AssertionError"):
        BdiaStack(make_blocks(3))(make_tokens())


def test_auto_leaves_small_streams_to_the_eager_pass(monkeypatch):
    monkeypatch.setattr(compiled_module, "_compiled", lambda *_: pytest.fail("compiled"))
    gradients(BdiaStack(make_blocks(3)), make_tokens())
    monkeypatch.setattr(compiled_module, "COMPILE_FROM", 2 * T * D)
    with pytest.raises(pytest.fail.Exception, match="compiled"):
        gradients(BdiaStack(make_blocks(3)), make_tokens())


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"kernel='cuda'.*auto, compiled, eager, triton.*stack.kernel"):
        BdiaStack(make_blocks(2), kernel="cuda")


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 5)])
def test_the_sum_of_bits_does_not_depend_on_the_layout_and_shows_every_changed_bit(shape):
    x = torch.randn(shape)
    wanted = bit_sum(x)
    assert wanted.dtype == torch.int32
    shifted = torch.cat([torch.zeros(1), x.flatten()])[1:].view(shape)
    assert shifted.storage_offset() % 2 and bit_sum(shifted) == wanted
    assert bit_sum(x.transpose(0, 1).contiguous().transpose(0, 1)) == wanted
    for place in range(x.numel()):
        for bit in range(32):
            changed = x.clone()
            changed.view(-1).view(torch.int32)[place] ^= 1 << bit if bit < 31 else -(2**31)
            assert bit_sum(changed) != wanted
