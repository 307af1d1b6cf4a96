"""The stacks as modules: evaluation, weights, options, and agreement with the slow oracle."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from bdia.reversible import (
    BdiaStack,
    CheckpointStack,
    Constant,
    Discrete,
    RevVitStack,
    StandardStack,
    TwoPoint,
    Uniform,
)
from bdia.reversible.arithmetic.grid import quantize
from bdia.reversible.arithmetic.reference import reference_forward
from helpers.reversible_helpers import (
    HALF,
    Call,
    D,
    TinyBlock,
    assert_bit_equal,
    assert_same_output_and_close_gradients,
    gamma_of,
    gradients,
    loss_of,
    make_blocks,
    make_tokens,
)

EVERY_STACK = {
    "standard": StandardStack,
    "checkpoint": CheckpointStack,
    "bdia": BdiaStack,
    "bdia stored": lambda blocks: BdiaStack(blocks, backward="stored"),
    "bdia float": lambda blocks: BdiaStack(blocks, bits=None),
    "revvit": lambda blocks: RevVitStack(blocks, merge="mean"),
    "revvit grid": lambda blocks: RevVitStack(blocks, grid_bits=9),
}
every_stack = pytest.mark.parametrize("make", EVERY_STACK.values(), ids=EVERY_STACK)


def quiet(law, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return law(*args)


# --- the oracle ---


def drawn(law, depth, batch, seed):
    """Draw the gammas a BdiaStack of that depth draws from this seed (its blocks must draw nothing)."""
    torch.manual_seed(seed)
    return [None, *(law.sample(batch) for _ in range(depth - 1))]


class Oracle(nn.Sequential):
    """`reference_forward` with the gammas a stack would draw."""

    def __init__(self, blocks, law, bits):
        super().__init__(*blocks)
        self.law, self.bits = law, bits

    def forward(self, x):
        gammas = [None, *(self.law.sample(x.shape[0]) for _ in list(self)[1:])]
        return reference_forward(list(self), x, gammas, self.bits)[-1]


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    "law", [HALF, TwoPoint("1/4"), TwoPoint("3/5"), TwoPoint("1"), TwoPoint("5/3", per="batch")], ids=str
)
@pytest.mark.parametrize("bits", [5, 9, 12])
@pytest.mark.parametrize("backward", ["stored", "reversible"])
def test_output_equals_the_slow_oracle_bit_for_bit_and_gradients_to_rounding(depth, law, bits, backward):
    blocks, x = make_blocks(depth), make_tokens(shape=(4, 5, D))
    found = gradients(BdiaStack(blocks, law, bits, backward=backward), x)
    assert_same_output_and_close_gradients(found, gradients(Oracle(blocks, law, bits), x))


@pytest.mark.parametrize("law", [HALF, TwoPoint("3/5")], ids=str)
def test_every_residual_stream_equals_the_oracle_s(law):
    blocks, x, seen = make_blocks(6), make_tokens(), []
    for block in blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    torch.manual_seed(3)
    with torch.no_grad():
        out = BdiaStack(blocks, law, backward="stored")(x)
        found = [*seen, out]
        wanted = reference_forward(blocks, x, drawn(law, 6, len(x), 3), 9)
    assert len(found) == len(wanted) == 7
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_recomputed_streams_equal_the_oracle_s():
    blocks, x, seen = make_blocks(6), make_tokens(), []
    stack = BdiaStack(blocks, keep=0)
    torch.manual_seed(3)
    loss = loss_of(stack(x))
    for block in blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    loss.backward()
    found = seen[::-1]
    wanted = reference_forward(blocks, x, drawn(HALF, 6, len(x), 3), 9)[:-1]
    assert len(found) == 6 and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_stored_gives_the_oracle_s_gradient_of_a_gradient():
    blocks, x = [Call(lambda self, x: x + torch.tanh(x * self.weight)) for _ in range(4)], make_tokens()
    found = []
    for stack in (BdiaStack(blocks, backward="stored"), Oracle(blocks, HALF, 9)):
        torch.manual_seed(0)
        (first,) = torch.autograd.grad(loss_of(stack(x)), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *stack.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_the_oracle_follows_the_paper_s_numbers():
    # bits=1: u = 1/2. x_0 = 1.5 (3 u, odd), y_0 = x_1 = 2; gamma = 1/2, y_1 = 2.2:
    # (1.5 + 0.5) / 2 + Q[1.5 * 2.2 - 2] = 1 + Q[1.3] = 2.5
    x = torch.tensor([[1.4]])
    states = reference_forward([lambda x: x + 0.5, lambda x: x + 0.2], x, [None, gamma_of("1/2")], 1)
    assert [s.item() for s in states] == [1.5, 2.0, 2.5]


@pytest.mark.parametrize("law", [Uniform(-0.5, 0.5), Constant(0), HALF, TwoPoint("3/5")], ids=str)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_float_form_is_the_float_equation(law, depth):
    blocks, x = make_blocks(depth), make_tokens()
    torch.manual_seed(0)
    found = BdiaStack(blocks, law, bits=None, backward="stored")(x)
    torch.manual_seed(0)
    x_prev, x_curr = x, blocks[0](x)
    for block in blocks[1:]:
        gamma = law.sample(len(x))
        gamma = (gamma if isinstance(gamma, torch.Tensor) else gamma.value).view(-1, 1, 1)
        h = block(x_curr) - x_curr
        x_prev, x_curr = x_curr, gamma * x_prev + (1 - gamma) * x_curr + (1 + gamma) * h
    torch.testing.assert_close(found, x_curr, rtol=1e-5, atol=1e-5)  # the same terms in another order


@pytest.mark.parametrize("law", [Constant(0), quiet(Constant, "1/2"), Uniform(-1, 1)], ids=str)
def test_stored_training_takes_laws_without_an_inverse_on_the_grid(law):
    x, stack = make_tokens(), BdiaStack(make_blocks(4, 0.1), law, backward="stored")
    found = gradients(stack, x)
    assert torch.equal(quantize(found[0], 9), found[0])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in found)


def test_gamma_zero_in_training_is_the_standard_transformer_on_the_grid():
    blocks, x = make_blocks(4), make_tokens()
    assert torch.equal(BdiaStack(blocks, Constant(0), backward="stored")(x), BdiaStack(blocks).eval()(x))


# --- inference ---


@pytest.mark.parametrize("bits", [5, 9])
def test_inference_is_the_standard_transformer_with_a_rounded_stream(bits):
    stack, x = BdiaStack(make_blocks(5, 0.1), bits=bits).eval(), make_tokens()
    wanted = quantize(x, bits)
    for block in stack:
        wanted = quantize(block(wanted), bits)
    assert torch.equal(stack(x), wanted)
    assert torch.equal(stack(x), stack(x))


@pytest.mark.parametrize("bits", [9, None])
def test_inference_without_quantisation_is_the_standard_stack_bit_for_bit(bits):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    stack = BdiaStack(blocks, bits=bits, quantize_eval=False).eval()
    assert torch.equal(stack(x), StandardStack(blocks).eval()(x))


def test_rounding_changes_inference_by_the_grid_s_size_only():
    stack, x = BdiaStack(make_blocks(5), bits=9).eval(), make_tokens()
    assert 0 < (stack(x) - StandardStack(stack).eval()(x)).abs().max() < 20 / 512


@pytest.mark.parametrize("quantize_eval", [True, False])
@pytest.mark.parametrize("gamma", [0.5, "1/2", "-1/4", 0.3, 0.0012345, -math.pi / 8])
def test_eval_gamma_is_constant_at_inference_and_unused_in_training(gamma, quantize_eval):
    blocks, x = make_blocks(4), make_tokens()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a gamma chosen for inference is no training law: nothing to warn about
        stack = BdiaStack(blocks, eval_gamma=gamma, quantize_eval=quantize_eval)
    trained = gradients(stack, x)
    assert_bit_equal(trained, gradients(BdiaStack(blocks), x))
    found, value = stack.eval()(x), float(gamma) if isinstance(gamma, float) else eval(gamma)
    x_prev, x_curr = x, blocks[0](x)
    for block in blocks[1:]:
        x_prev, x_curr = x_curr, value * x_prev + (1 + value) * block(x_curr) - 2 * value * x_curr
    assert not torch.equal(found, StandardStack(blocks).eval()(x))
    torch.testing.assert_close(found, x_curr, rtol=0, atol=20 / 512 if quantize_eval else 1e-5)


@pytest.mark.parametrize("gamma", [0, 0.0, "0", "0/3"])
def test_eval_gamma_zero_is_the_default(gamma):
    blocks, x = make_blocks(3), make_tokens()
    assert torch.equal(BdiaStack(blocks, eval_gamma=gamma).eval()(x), BdiaStack(blocks).eval()(x))


@every_stack
def test_gradients_in_evaluation_mode_do_not_depend_on_dropout_and_can_be_taken_twice(make):
    stack, x = make(make_blocks(3, 0.5)).eval(), make_tokens()
    first, again = gradients(stack, x, seed=0), gradients(stack, x, seed=1)
    assert_bit_equal(first, again)
    loss = loss_of(stack(x))
    loss.backward(retain_graph=True)
    loss.backward()


def test_inference_gradients_are_straight_through():
    blocks, x = make_blocks(4), make_tokens()
    found = gradients(BdiaStack(blocks, bits=12).eval(), x)
    for a, b in zip(found, gradients(StandardStack(blocks).eval(), x), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)  # the grid moves x by about 1e-4 per block


# --- a stack as a container of blocks ---


@every_stack
def test_weights_move_to_and_from_a_plain_sequential(make):
    stack, plain = make(make_blocks(3)), nn.Sequential(*make_blocks(3, seed=9))
    assert list(stack.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(stack.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(stack.parameters(), plain.parameters(), strict=True))
    other = make(make_blocks(3, seed=5))
    other.load_state_dict(plain.state_dict())
    x = make_tokens()
    assert torch.equal(other.eval()(x), stack.eval()(x))


@every_stack
def test_blocks_are_reached_by_index_slice_length_and_iteration(make):
    blocks = make_blocks(4)
    stack = make(blocks)
    assert len(stack) == 4 and list(stack) == blocks
    assert stack[0] is blocks[0] and stack[-1] is blocks[-1]
    part = stack[1:3]
    assert isinstance(part, nn.Sequential) and list(part) == blocks[1:3]
    assert isinstance(stack[::-1], nn.Sequential) and list(stack[::-1]) == blocks[::-1]
    assert list(stack[4:]) == []


@every_stack
def test_a_stack_may_be_copied_and_pickled_before_and_after_training_on_it(make):
    stack, x = make(make_blocks(3, 0.1)), make_tokens()
    for train in (lambda: None, lambda: gradients(stack, x), lambda: stack.eval()(x), lambda: stack.train()(x)):
        train()
        for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
            assert_bit_equal(gradients(twin.train(), x)[:2], gradients(stack.train(), x)[:2])
            assert twin[0] is not stack[0]


@every_stack
def test_an_empty_stack_is_refused_by_config_key(make):
    with pytest.raises(ValueError, match=r"at least one block.*model\.net\.depth"):
        make([])


@every_stack
def test_streams_tells_the_width_of_the_output(make):
    stack, x = make(make_blocks(2)), make_tokens()
    assert stack(x).shape == (*x.shape[:-1], stack.streams * D)
    assert stack(x).dtype == torch.float32


@every_stack
def test_a_generator_of_blocks_is_enough(make):
    assert len(make(TinyBlock() for _ in range(3))) == 3


@every_stack
def test_extra_block_inputs_reach_every_block(make):
    stack, x, context = make(make_blocks(3)), make_tokens(), make_tokens(2)
    seen = []
    for block in stack:
        block.attn.register_forward_hook(lambda _, args, kwargs, __: seen.append(args[1] is context), with_kwargs=True)
    with torch.no_grad():
        stack(x, context)
    assert seen == [True] * 3


def test_revvit_in_evaluation_mode_is_revvit_s_equations():
    blocks, x = make_blocks(3), make_tokens()
    x1 = x2 = x
    for block in blocks:
        x1 = x1 + block.attn(block.norm1(x2))
        x2 = x2 + block.mlp(block.norm2(x1))
    assert torch.equal(RevVitStack(blocks).eval()(x), torch.cat([x1, x2], -1))
    assert torch.equal(RevVitStack(blocks, merge="mean").eval()(x), (x1 + x2) / 2)


# --- options ---


def test_settings_are_shown_when_printed():
    assert "gamma=TwoPoint(1/2: 0.5, -1/2: 0.5; per sample), bits=9, keep=1, backward='reversible'" in repr(
        BdiaStack(make_blocks(2))
    )
    assert "grid_bits=9, merge='mean', keep=0" in repr(RevVitStack(make_blocks(2), 9, "mean"))
    chosen = BdiaStack(make_blocks(2), keep=[0], save=["attention"], nested=["mlp"], memory_budget=0.5, kernel="eager")
    assert "keep=[0], memory_budget=0.5, save=('attention',), nested=('mlp',)" in repr(chosen)
    assert "kernel='eager'" in repr(chosen)


@pytest.mark.parametrize(
    "law", [Constant(0), Uniform(-0.5, 0.5), Discrete({"0": 0.5, "1/2": 0.25, "-1/2": 0.25})], ids=str
)
@pytest.mark.parametrize("bits", [9, None])
def test_a_law_without_an_inverse_is_refused_unless_activations_are_stored(law, bits):
    with pytest.raises(ValueError, match=r"has no inverse.*stack\.backward=stored.*stack\.gamma"):
        BdiaStack(make_blocks(2), law, bits)
    BdiaStack(make_blocks(2), law, bits, backward="stored")


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda b: BdiaStack(b, bits=0), "stack.bits"),
        (lambda b: BdiaStack(b, bits=21), "stack.bits"),
        (lambda b: BdiaStack(b, keep=-1), "stack.keep"),
        (lambda b: BdiaStack(b, backward="checkpoint"), "stack.backward"),
        (lambda b: CheckpointStack(b, -2), "stack.keep"),
        (lambda b: RevVitStack(b, 99), "stack.bits|stack.grid_bits"),
        (lambda b: RevVitStack(b, merge="sum"), "stack.merge"),
    ],
    ids=["bits 0", "bits 21", "keep", "backward", "checkpoint", "grid_bits", "merge"],
)
def test_an_impossible_option_is_refused_by_config_key(make, key):
    with pytest.raises(ValueError, match=key):
        make(make_blocks(2))


def test_keeping_more_blocks_than_there_are_keeps_them_all():
    blocks, x = make_blocks(2, 0.1), make_tokens()
    stack = BdiaStack(blocks, keep=100)
    assert_bit_equal(gradients(stack, x), gradients(BdiaStack(blocks, backward="stored"), x))
    calls = []
    blocks[0].register_forward_hook(lambda *_: calls.append(1))
    gradients(stack, x)
    assert len(calls) == 1


@pytest.mark.parametrize("keep", [0, 1, 2])
@pytest.mark.parametrize("make", [BdiaStack, CheckpointStack])
def test_each_block_runs_once_more_in_backward_but_for_the_kept_ones(make, keep):
    blocks, calls = make_blocks(4), []
    for k, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, k=k: calls.append(k))
    loss_of(make(blocks, keep=keep)(make_tokens())).backward()
    assert calls == [0, 1, 2, 3, *range(3 - keep, -1, -1)]


def test_the_training_output_lies_on_the_grid_and_differs_from_inference():
    stack, x = BdiaStack(make_blocks(4)), make_tokens()
    out = stack(x)
    assert torch.equal(quantize(out, 9), out)
    assert not torch.equal(out, stack.eval()(x))


def test_gamma_is_drawn_anew_for_every_block_sample_and_forward():
    # Every sample starts alike and blocks draw nothing, so samples differ by their gammas alone.
    stack, x = BdiaStack([Call(lambda self, x: 1.5 * x) for _ in range(6)], bits=9), torch.ones(64, 1, D)
    first, second = stack(x)[:, 0, 0], stack(x)[:, 0, 0]
    assert len(set(first.tolist())) > 10
    assert not torch.equal(first, second)


def test_the_global_seed_decides_training():
    stack, x = BdiaStack(make_blocks(4, 0.1)), make_tokens()
    assert_bit_equal(gradients(stack, x, seed=1), gradients(stack, x, seed=1))
    assert not torch.equal(gradients(stack, x, seed=1)[0], gradients(stack, x, seed=2)[0])


@pytest.mark.parametrize("value", ["abc", "1/0", float("nan"), float("inf")])
def test_an_eval_gamma_that_is_no_number_names_its_key(value):
    with pytest.raises(ValueError, match=r"stack\.eval_gamma"):
        BdiaStack(make_blocks(2), eval_gamma=value)


@pytest.mark.parametrize("keep", [None, -1, 1.5])
def test_a_keep_that_is_no_count_names_its_key(keep):
    with pytest.raises(ValueError, match=r"stack\.keep"):
        BdiaStack(make_blocks(2), keep=keep)


def test_a_grid_of_revvit_names_its_own_key():
    with pytest.raises(ValueError, match=r"stack\.grid_bits"):
        RevVitStack(make_blocks(2), grid_bits=99)


@pytest.mark.parametrize(("keep", "rebuilt"), [(0, 3), (1, 2), (4, 0)])
def test_a_stack_counts_the_streams_that_backward_rebuilds(keep, rebuilt):
    stack = BdiaStack(make_blocks(4), keep=keep)
    stack(make_tokens())
    assert stack.rebuilt == rebuilt


@pytest.mark.parametrize("gamma", ["1/2", 0.5, TwoPoint])
def test_a_gamma_that_is_no_law_is_refused_with_an_example(gamma):
    with pytest.raises(TypeError, match=r'TwoPoint\("1/2"\); set stack\.gamma'):
        BdiaStack(make_blocks(2), gamma=gamma)
