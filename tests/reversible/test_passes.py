"""A pass: what is refused, what is noticed, what stays valid."""

import gc
import warnings

import pytest
import torch
from torch import nn

from bdia.reversible import BdiaStack, Constant, GridOverflowError, ReversibilityError, RevVitStack, TwoPoint
from bdia.reversible.arithmetic.reference import reference_forward
from bdia.reversible.engine.layers import OpenPass
from bdia.reversible.engine.passes import Pass
from helpers.reversible_helpers import B, Call, D, T, gradients, loss_of, make_blocks, make_tokens

REVERSIBLE = {
    "bdia": lambda blocks: BdiaStack(blocks, keep=0),
    "bdia keep 1": lambda blocks: BdiaStack(blocks, keep=1),
    "bdia float": lambda blocks: BdiaStack(blocks, bits=None),
    "revvit": RevVitStack,
    "revvit grid": lambda blocks: RevVitStack(blocks, grid_bits=9),
}


# --- more than one backward ---


@pytest.mark.parametrize("make", REVERSIBLE.values(), ids=REVERSIBLE)
def test_a_second_backward_is_refused_with_the_ways_out(make):
    loss = loss_of(make(make_blocks(3))(make_tokens()))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"second backward.*[Rr]un the forward again.*stack\.backward=stored"):
        loss.backward()


@pytest.mark.parametrize("make", REVERSIBLE.values(), ids=REVERSIBLE)
def test_a_second_loss_of_the_same_forward_is_refused(make):
    out = make(make_blocks(3))(make_tokens())
    loss_of(out[:, :2]).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="sum the losses"):
        loss_of(out[:, 2:]).backward()


@pytest.mark.parametrize("make", REVERSIBLE.values(), ids=REVERSIBLE)
def test_a_graph_of_the_gradient_is_refused_with_a_hint(make):
    x = make_tokens()
    with pytest.raises(RuntimeError, match=r"create_graph=True.*stack\.backward=stored"):
        torch.autograd.grad(loss_of(make(make_blocks(3))(x)), x, create_graph=True)


def test_stored_allows_a_second_backward_and_a_graph_of_the_gradient():
    x = make_tokens()
    stack = BdiaStack([Call(lambda self, x: x + torch.tanh(x * self.weight)) for _ in range(3)], backward="stored")
    loss = loss_of(stack(x))
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    again = torch.autograd.grad(loss, x, create_graph=True)[0]
    assert torch.equal(first, again)
    again.square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_graph_of_the_gradient_is_that_of_plain_autograd_where_everything_is_stored():
    blocks = [Call(lambda self, x: x + torch.tanh(x * self.weight)) for _ in range(5)]
    gammas, found = [None, *(TwoPoint("3/5").sample(B) for _ in blocks[1:])], []

    class Drawn(TwoPoint):
        def sample(self, *args, **kwargs):
            return next(draws)

    draws = iter(gammas[1:])
    for forward in (
        BdiaStack(blocks, Drawn("3/5"), backward="stored"),
        lambda x: reference_forward(blocks, x, gammas, 9)[-1],
    ):
        x = make_tokens()
        first = torch.autograd.grad(loss_of(forward(x)), x, create_graph=True)[0]
        found.append(torch.autograd.grad(first.square().sum(), [x, *(block.weight for block in blocks)]))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) and b.abs().sum() > 0 for a, b in zip(*found, strict=True))


def test_a_refused_second_backward_leaves_the_next_forward_usable():
    stack, x = BdiaStack(make_blocks(3), keep=0), make_tokens()
    wanted = gradients(stack, x)
    loss = loss_of(stack(x))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        loss.backward()
    found = gradients(stack, x)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("keep", [1, 2])
def test_gradients_of_kept_blocks_leave_the_full_backward_possible_and_exact(keep):
    stack, x = BdiaStack(make_blocks(5, 0.1), keep=keep), make_tokens()
    wanted = gradients(stack, x)
    torch.manual_seed(0)
    loss = loss_of(stack(x))
    late = list(stack[-1].parameters())
    early_found = torch.autograd.grad(loss, late, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(early_found, wanted[-len(late) :], strict=True))
    for tensor in (x, *stack.parameters()):
        tensor.grad = None
    loss.backward()
    found = [x.grad, *(p.grad for p in stack.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted[1:], strict=True))


@pytest.mark.parametrize("lowest", [0, 2, 4])
def test_after_a_backward_that_stopped_at_a_released_block_the_next_one_is_refused(lowest):
    stack, x = BdiaStack(make_blocks(5), keep=0), make_tokens()
    loss = loss_of(stack(x))
    torch.autograd.grad(loss, list(stack[lowest].parameters()), retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        loss.backward()


def test_an_exception_inside_backward_does_not_poison_the_stack():
    stack, x = BdiaStack(make_blocks(4)), make_tokens()
    wanted = gradients(stack, x)
    handle = stack[1].mlp[0].weight.register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gradients(stack, x)
    handle.remove()
    found = gradients(stack, x)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# --- blocks that do not repeat themselves ---


class Unrepeatable(nn.Module):
    """Adds a number that grows from call to call: stands for a non-deterministic kernel."""

    def __init__(self, step):
        super().__init__()
        self.calls, self.step, self.weight = 0, step, nn.Parameter(torch.ones(D))

    def forward(self, x):
        self.calls += 1
        return x + torch.tanh(x * self.weight) + self.calls * self.step


class CountsItself(nn.Module):
    """Changes its own buffer, which its output depends on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):
        self.scale *= 1.1
        return x + torch.tanh(x * self.weight) * self.scale.clone()


def private_noise(self, x):
    if not hasattr(self, "generator"):
        self.generator = torch.Generator().manual_seed(0)
    return x + torch.tanh(x * self.weight) * torch.rand(x.shape, generator=self.generator)


FAULTY = {
    "non-deterministic": lambda: Unrepeatable(0.05),
    "own state": CountsItself,
    "own generator": lambda: Call(private_noise),
}


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("position", [0, 1, 2, 4])
@pytest.mark.parametrize("fault", FAULTY)
def test_a_block_that_does_not_repeat_itself_is_caught_and_named(fault, position, keep):
    blocks = make_blocks(6, 0.1)
    blocks[position] = FAULTY[fault]()
    loss = loss_of(BdiaStack(blocks, keep=keep)(make_tokens()))
    with pytest.raises(ReversibilityError, match=rf"block {position}:.*non-deterministic.*stack\.backward=stored"):
        loss.backward()


def test_a_single_changed_value_is_enough():
    class OneValue(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.weight = 0, nn.Parameter(torch.ones(D))

        def forward(self, x):
            self.calls += 1
            y = x * self.weight
            bump = torch.zeros_like(y)
            bump[-1, -1, -1] = 0.01 * self.calls
            return y + bump

    for position in (0, 1, 2):
        blocks = make_blocks(4)
        blocks[position] = OneValue()
        with pytest.raises(ReversibilityError, match=f"block {position}:"):
            loss_of(BdiaStack(blocks)(make_tokens())).backward()


@pytest.mark.parametrize("position", [2, 3, 4])
def test_the_first_trained_block_is_watched_below_frozen_ones_too(position):
    blocks = make_blocks(5)
    for block in blocks[:2]:
        block.requires_grad_(False)
    blocks[position] = Unrepeatable(0.05)
    with pytest.raises(ReversibilityError, match=f"block {position}:"):
        loss_of(BdiaStack(blocks, keep=0)(make_tokens().detach())).backward()


@pytest.mark.parametrize("position", [1, 2])
def test_without_verify_the_same_block_is_not_caught_and_the_gradients_are_wrong(position):
    def found(**settings):
        blocks = make_blocks(4)
        blocks[position] = Unrepeatable(0.05)
        return gradients(BdiaStack(blocks, **settings), make_tokens())

    (out, *unnoticed), (same_out, *right) = found(verify=False), found(backward="stored")
    assert torch.equal(out, same_out)
    assert not any(torch.equal(a, b) for a, b in zip(unnoticed[:1], right[:1], strict=True))  # of the input


def test_a_kept_last_block_need_not_repeat_itself():
    stack = BdiaStack([*make_blocks(3), Unrepeatable(0.05)], keep=1)
    loss_of(stack(make_tokens())).backward()
    assert stack[-1].calls == 1


@pytest.mark.parametrize("position", [0, 1, 2])
def test_revvit_on_the_grid_catches_and_names_it_too(position):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Unrepeatable(0.05)

        def branches(self):
            return self.block, nn.Identity()

    blocks = make_blocks(3)
    blocks[position] = Half()
    with pytest.raises(ReversibilityError, match=f"block {position}"):
        loss_of(RevVitStack(blocks, grid_bits=9)(make_tokens())).backward()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_parameters_changed_between_forward_and_backward_are_an_error(position):
    stack = BdiaStack(make_blocks(4), keep=0)
    loss = loss_of(stack(make_tokens()))
    stack[position].mlp[2].bias.data += 0.5  # past autograd's version counters
    with pytest.raises(ReversibilityError, match=f"block {position}:"):
        loss.backward()


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("mode", ["reversible", "stored"])
def test_a_block_that_changes_its_input_in_place_is_an_error_and_no_wrong_gradient(position, mode):
    def in_place(self, x):
        return x.mul_(0.5) * self.weight

    blocks = make_blocks(4)
    blocks[position] = Call(in_place)
    with pytest.raises((RuntimeError, ReversibilityError)):
        loss_of(BdiaStack(blocks, keep=0, backward=mode)(make_tokens())).backward()


# --- what the caller sees stays valid ---


def test_changing_the_output_in_place_is_an_error_where_backward_needs_it():
    out = BdiaStack(make_blocks(3), keep=0)(make_tokens())
    loss = out.sum()  # does not look at the output itself
    out.detach().add_(1)
    with pytest.raises(RuntimeError, match=r"modified inplace|modified by an inplace"):
        loss.backward()


def test_changing_the_output_past_autograd_is_an_error_too():
    out = BdiaStack(make_blocks(3), keep=0)(make_tokens())
    loss = out.sum()
    out.data.add_(1)
    with pytest.raises(ReversibilityError, match="x_3 changed between forward and backward"):
        loss.backward()


def test_an_in_place_operation_on_the_output_that_autograd_records_gives_exact_gradients_or_an_error():
    stack, x = BdiaStack(make_blocks(3), keep=0), make_tokens()
    with pytest.raises(RuntimeError, match=r"modified inplace|modified by an inplace"):
        loss_of(torch.relu_(stack(x))).backward()
    kept = BdiaStack(list(stack), keep=1)
    stored = BdiaStack(list(stack), backward="stored")
    found = []
    for each in (kept, stored):
        torch.manual_seed(0)
        found += torch.autograd.grad(loss_of(torch.relu_(each(x))), x)
    assert torch.equal(*found)


@pytest.mark.parametrize("make", REVERSIBLE.values(), ids=REVERSIBLE)
def test_changing_the_input_in_place_after_forward_is_harmless(make):
    stack, x = make(make_blocks(3)), make_tokens().detach()
    wanted = gradients(stack, x)
    torch.manual_seed(0)
    for parameter in stack.parameters():
        parameter.grad = None
    loss = loss_of(stack(x))
    x.fill_(7)
    loss.backward()
    assert all(torch.equal(p.grad, w) for p, w in zip(stack.parameters(), wanted[2:], strict=True))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("on_grid", [True, False])
def test_input_and_output_keep_their_values_through_forward_and_backward(depth, keep, on_grid):
    x = make_tokens().detach()
    x = (x * 512).round() / 512 if on_grid else x
    before = x.clone()
    x.requires_grad_()
    out = BdiaStack(make_blocks(depth), keep=keep)(x)
    seen = out.detach().clone()
    assert torch.equal(x, before)
    loss_of(out).backward()
    assert torch.equal(x, before) and torch.equal(out, seen)
    assert x.untyped_storage().nbytes() == out.untyped_storage().nbytes() == B * T * D * 4
    assert x.untyped_storage().data_ptr() != out.untyped_storage().data_ptr()


@pytest.mark.parametrize("merge", ["mean", "concat"])
def test_revvit_keeps_input_and_output_valid(merge):
    x, stack = make_tokens(), RevVitStack(make_blocks(3), grid_bits=9, merge=merge)
    before, out = x.detach().clone(), stack(x)
    seen = out.detach().clone()
    loss_of(out).backward()
    assert torch.equal(x, before) and torch.equal(out, seen)


# --- range ---


def blow_up(value):
    return lambda self, x: x * self.weight + value


@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("mode", ["train reversible", "train stored", "train no_grad", "eval"])
@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf"), -1e6])
def test_a_stream_out_of_range_names_block_value_and_bits(position, mode, value):
    blocks = make_blocks(4)
    blocks[position] = Call(blow_up(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = BdiaStack(blocks, Constant("1"), backward="stored" if "stored" in mode else "reversible")
    stack.train("train" in mode)
    x = torch.zeros(B, T, D)
    with torch.set_grad_enabled("no_grad" not in mode), pytest.raises(GridOverflowError) as caught:
        out = stack(x)
        loss_of(out).backward()
    message = str(caught.value)
    assert f"block {position}:" in message and "bits=9" in message and "32768" in message and "stack.bits" in message
    wanted = abs(value) * (2 if position and "train" in mode else 1)  # gamma 1 takes twice the block's output
    assert float(message.split("|x| = ")[1].split(";")[0]) == pytest.approx(wanted, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("value", [1e7, float("nan"), float("inf")])
def test_an_input_out_of_range_is_an_error_in_training_even_if_block_0_hides_it(value):
    def normalised(self, x):
        return torch.tanh(torch.nan_to_num(x, 0, 1, -1)) * self.weight

    x = make_tokens().detach()
    x[0, 0, 0] = value
    for gamma in ("1/2", "2", "1/256"):
        with pytest.raises(GridOverflowError):
            loss_of(BdiaStack([Call(normalised), *make_blocks(2)], TwoPoint(gamma))(x)).backward()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("position", [0, 2])
def test_revvit_on_the_grid_names_the_block_out_of_range(position, training):
    class Half(nn.Module):
        def __init__(self, which):
            super().__init__()
            self.which, self.weight = which, nn.Parameter(torch.ones(D))

        def branches(self):
            parts = [lambda x: x * self.weight] * 2
            parts[self.which] = lambda x: x * self.weight + 1e6
            return tuple(parts)

    for which in (0, 1):
        blocks = make_blocks(3)
        blocks[position] = Half(which)
        with pytest.raises(GridOverflowError, match=rf"block {position}.*bits=9"):
            loss_of(RevVitStack(blocks, grid_bits=9).train(training)(make_tokens())).backward()


def test_streams_just_inside_the_range_train_exactly():
    def near_the_limit(self, x):
        return x.sign() * 14000 + torch.tanh(x * self.weight)

    blocks = [Call(near_the_limit), *(Call(lambda self, x: x + torch.tanh(x * self.weight)) for _ in range(2))]
    x, found = make_tokens(), []
    for mode in ("stored", "reversible"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(gradients(BdiaStack(blocks, Constant("-1/2"), keep=0, backward=mode), x))
    assert found[0][0].abs().max() > 24000
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- what a block may return ---


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (lambda self, x: (x, None), "tuple"),
        (lambda self, x: x[:, :-1], r"\(2, 4, 16\)"),
        (lambda self, x: None, "NoneType"),
        (lambda self, x: x.sum(), r"\(\)"),
    ],
    ids=["tuple", "short", "none", "scalar"],
)
def test_a_block_that_returns_something_else_is_named(function, shown, position, training):
    blocks = make_blocks(3)
    blocks[position] = Call(function)
    with pytest.raises(TypeError, match=rf"block {position} returned {shown}.*\(2, 5, 16\).*wrap the block"):
        BdiaStack(blocks).train(training)(make_tokens())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("make", REVERSIBLE.values(), ids=REVERSIBLE)
def test_a_stream_that_is_not_float32_is_refused_outside_autocast(make, dtype):
    with pytest.raises(TypeError, match=f"{dtype}.*float32.*trainer.precision"):
        make(make_blocks(2))(make_tokens().to(dtype))


@pytest.mark.parametrize("make", REVERSIBLE.values(), ids=REVERSIBLE)
def test_a_bfloat16_input_is_taken_under_autocast_and_gets_its_gradient(make):
    x, stack = make_tokens().detach().bfloat16().requires_grad_(), make(make_blocks(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = stack(x)
    assert out.dtype == torch.float32
    loss_of(out).backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.abs().sum() > 0


# --- nothing is held without need ---


def test_training_mode_under_no_grad_gives_the_values_of_training_and_keeps_nothing():
    stack, x = BdiaStack(make_blocks(4, 0.1)), make_tokens()
    outs = []
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        torch.manual_seed(0)
        with context:
            outs.append(stack(x))
    assert outs[0].requires_grad and not outs[1].requires_grad and not outs[2].requires_grad
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_a_forward_without_a_backward_is_released_without_the_garbage_collector():
    stack, x = BdiaStack(make_blocks(3), keep=0), make_tokens()

    def passes():
        return sum(type(o) is Pass for o in gc.get_objects())

    def open_passes():
        return sum(type(o) is OpenPass for o in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before, open_before = passes(), open_passes()
        out = stack(x)
        held = passes()
        assert open_passes() == open_before  # it ended with the forward; a cycle would wait for the collector
        del out
        assert (held, passes()) == (before + 1, before)
    finally:
        gc.enable()


@pytest.mark.parametrize("bit", [0, 8, 22])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_bit_that_flips_in_a_stream_that_is_held_is_named(bit, keep):
    """Through memory, which torch does not see: a low bit would change gradients and no rebuilt stream."""
    stack = BdiaStack(make_blocks(4), keep=keep)
    out = stack(make_tokens())
    held = [x for x in held_streams(out.shape) if x.data_ptr() != out.data_ptr()]
    assert held
    for x in held:
        x.data.view(torch.int32).view(-1)[3] ^= 1 << bit
    with pytest.raises(ReversibilityError, match=r"x_\d changed between forward and backward"):
        out.sum().backward()


def held_streams(shape):
    """Streams that passes hold now."""
    gc.collect()
    passes = [thing for thing in gc.get_objects() if isinstance(thing, Pass)]
    return [x for each in passes for x in each.states.values() if x.shape == shape]
