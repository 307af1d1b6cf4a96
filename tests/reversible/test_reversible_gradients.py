"""Reversible training has the gradients of stored training, bit for bit: parameters, input and extra inputs."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bdia.reversible import BdiaStack, CheckpointStack, Constant, Discrete, RevVitStack, StandardStack, TwoPoint
from helpers.reversible_helpers import (
    HALF,
    B,
    Call,
    D,
    T,
    TinyBlock,
    assert_bit_equal,
    assert_equal_tensors,
    gradients,
    loss_of,
    make_blocks,
    make_tokens,
)


def compare(blocks, x, *args, gamma=HALF, bits=9, keep=1, **kwargs):
    """Assert that reversible and stored training of the same blocks agree in output and every gradient."""
    wanted = gradients(BdiaStack(blocks, gamma, bits, backward="stored"), x, *args, **kwargs)
    found = gradients(BdiaStack(blocks, gamma, bits, keep), x, *args, **kwargs)
    assert_bit_equal(found, wanted)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])  # both parities: a known reversible code base is wrong at odd depth
@pytest.mark.parametrize("keep", [0, 1, 2])
@pytest.mark.parametrize(("dropout", "drop_path"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2)])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_reversible_gradients_equal_stored_gradients_bit_for_bit(depth, keep, dropout, drop_path, autocast):
    compare(make_blocks(depth, dropout, drop_path), make_tokens(), keep=keep, autocast=autocast)


LAWS = {
    "1/2": TwoPoint("1/2"),
    "1/4": TwoPoint("1/4"),
    "3/5": TwoPoint("3/5"),
    "1": TwoPoint("1"),
    "7/3": TwoPoint("7/3"),
    "1/200": TwoPoint("1/200"),
    "mixed": Discrete({"1/2": 0.25, "-1/2": 0.25, "3/8": 0.25, "-3/8": 0.25}),
    "per batch": TwoPoint("1/2", per="batch"),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("bits", [5, 9, 12])
@pytest.mark.parametrize("keep", [0, 1])
def test_gradients_are_exact_for_every_law_and_grid(law, bits, keep):
    compare(make_blocks(5, 0.1), make_tokens(), gamma=LAWS[law], bits=bits, keep=keep)


@pytest.mark.parametrize("sign", ["1/2", "-1/2", "-1"])
def test_gradients_are_exact_for_a_constant_gamma(sign):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(make_blocks(4), make_tokens(), gamma=Constant(sign))


@pytest.mark.parametrize("shape", [(1, 1, D), (3, D), (2, 3, 4, D), (7, 1, D)])
def test_any_number_of_dimensions_after_the_batch_works(shape):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.Tanh()) for _ in range(4)]
    compare(blocks, make_tokens(shape=shape))


@pytest.mark.parametrize("layout", ["transposed", "expanded", "slice"])
def test_the_memory_layout_of_the_input_does_not_matter(layout):
    base = {
        "transposed": make_tokens(shape=(T, B, D)).detach().transpose(0, 1),
        "expanded": make_tokens(shape=(1, T, D)).detach().expand(B, T, D),
        "slice": make_tokens(shape=(B, T + 2, 2 * D)).detach()[:, 1:-1, ::2],
    }[layout]
    blocks = make_blocks(4)
    plain = base.contiguous().requires_grad_()
    assert_bit_equal(gradients(BdiaStack(blocks), base.requires_grad_()), gradients(BdiaStack(blocks), plain))


def test_more_samples_than_one_slice_of_the_step(monkeypatch):
    monkeypatch.setattr("bdia.reversible.engine.kernels.SLICE_ELEMENTS", {"cpu": 2 * T * D})
    x = make_tokens(shape=(7, T, D))  # slices of 2, 2, 2 and 1 samples
    compare(make_blocks(5, 0.1), x, gamma=TwoPoint("3/5"), keep=0)


# --- extra block inputs ---


@pytest.mark.parametrize("keep", [0, 1])
def test_extra_block_inputs_receive_their_gradients(keep):
    context, bias = make_tokens(2), make_tokens(3)
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    x, blocks = make_tokens(), make_blocks(5, 0.1)
    compare(blocks, x, context, mask=mask, bias=bias, extra=[context, bias], keep=keep)
    assert context.grad.abs().sum() > 0 and bias.grad.abs().sum() > 0


def test_a_decoder_on_an_encoder_both_reversible_trains_exactly():
    encoder, decoder, x, target = make_blocks(3, 0.1), make_blocks(4, 0.1, seed=7), make_tokens(), make_tokens(5)

    class EncoderDecoder(nn.Module):
        def __init__(self, backward):
            super().__init__()
            self.encoder = BdiaStack(encoder, backward=backward)
            self.decoder = BdiaStack(decoder, backward=backward)

        def forward(self, source, target):
            return self.decoder(target, self.encoder(source))

    wanted, found = (gradients(EncoderDecoder(mode), x, target, extra=[target]) for mode in ("stored", "reversible"))
    assert_bit_equal(found, wanted)


# --- frozen parts ---


@pytest.mark.parametrize("needs_input", [True, False])
@pytest.mark.parametrize(
    "frozen", [[0], [0, 1, 2], [2, 3], [4], [0, 1, 2, 3], [1, 3, 5], [5], [0, 1, 2, 3, 4]], ids=str
)
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_frozen_blocks_change_no_other_gradient(frozen, needs_input, keep):
    blocks = make_blocks(6, 0.1)
    for k in frozen:
        blocks[k].requires_grad_(False)
    compare(blocks, make_tokens().detach().requires_grad_(needs_input), keep=keep)
    assert all((p.grad is None) == (k in frozen) for k, block in enumerate(blocks) for p in block.parameters())


@pytest.mark.parametrize("keep", [0, 1])
def test_with_every_block_frozen_the_input_still_gets_its_gradient(keep):
    blocks = make_blocks(5, 0.1)
    for block in blocks:
        block.requires_grad_(False)
    compare(blocks, make_tokens(), keep=keep)


def test_with_nothing_to_train_the_output_needs_no_gradient():
    blocks = make_blocks(4)
    for block in blocks:
        block.requires_grad_(False)
    x, outs = make_tokens().detach(), []
    for mode in ("reversible", "stored"):
        torch.manual_seed(0)
        outs.append(BdiaStack(blocks, backward=mode)(x))
    assert not outs[0].requires_grad and torch.equal(*outs)


@pytest.mark.parametrize("part", ["norm1.weight", "attn.qkv.weight", "mlp.2.bias"])
def test_training_one_parameter_per_block_is_enough(part):
    blocks = make_blocks(4)
    for block in blocks:
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(name == part)
    compare(blocks, make_tokens().detach())


# --- unusual blocks ---


def saves_nothing(self, x):
    return x + 0.1 * x


def identity(self, x):
    return x


def detached(self, x):
    return x.detach() * 1.5


def constant(self, x):
    return torch.full_like(x, 0.25)


def parameter_only(self, x):
    return self.weight.expand_as(x)


def side_branch(self, x):
    return x + torch.sigmoid(x.detach() * self.weight) * torch.tanh(x)


def inner_checkpoint(self, x):
    return x + checkpoint(lambda z: torch.tanh(z * self.weight).square(), x, use_reentrant=False)


def view_of_input(self, x):
    return x.transpose(0, 1).transpose(0, 1)


def half_precision(self, x):
    return (x + torch.tanh(x * self.weight)).to(torch.bfloat16)


def double_precision(self, x):
    return x.double() + torch.tanh(x * self.weight).double()


def not_contiguous(self, x):
    return (x + torch.tanh(x * self.weight)).transpose(1, 2).contiguous().transpose(1, 2)


UNUSUAL = [
    saves_nothing, identity, detached, constant, parameter_only, side_branch, inner_checkpoint, view_of_input,
    half_precision, double_precision, not_contiguous,
]  # fmt: skip


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("position", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("function", UNUSUAL, ids=lambda f: f.__name__)
def test_an_unusual_block_anywhere_keeps_gradients_exact(function, position, keep):
    blocks = make_blocks(5)
    blocks[position] = Call(function)
    compare(blocks, make_tokens(), keep=keep)


@pytest.mark.parametrize("function", UNUSUAL, ids=lambda f: f.__name__)
def test_unusual_blocks_only(function):
    blocks = [Call(function) for _ in range(4)]
    x = make_tokens()
    wanted, found = (gradients(BdiaStack(blocks, backward=mode), x) for mode in ("stored", "reversible"))
    assert_equal_tensors(found, wanted)


@pytest.mark.parametrize("pattern", ["aa", "aba", "abba", "aaaa"])
def test_a_block_used_several_times_gathers_the_same_gradient(pattern):
    named = dict(zip("ab", make_blocks(2, 0.1), strict=True))
    compare([named[letter] for letter in pattern], make_tokens(), keep=0)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("keep", [0, 1])
def test_compiled_blocks_train_exactly_with_inductor(dropout, autocast, keep):
    torch._dynamo.reset()
    blocks = make_blocks(5, dropout)
    for block in blocks:
        block.compile()
    compare(blocks, make_tokens(), keep=keep, autocast=autocast)


def test_compiled_blocks_train_exactly():
    torch._dynamo.reset()
    blocks = make_blocks(3, 0.1)
    for block in blocks:
        block.compile(backend="aot_eager")
    compare(blocks, make_tokens(), keep=0)


@pytest.mark.parametrize("stack", [BdiaStack, RevVitStack])
def test_a_compiled_model_around_a_stack_trains_exactly(stack):
    torch._dynamo.reset()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.blocks = stack(make_blocks(3))

        def forward(self, x):
            return self.blocks(x * 1.5) * 2

    wanted, found = Model(), torch.compile(Model(), backend="aot_eager")
    x = make_tokens()
    assert_equal_tensors(gradients(found, x), gradients(wanted, x))


# --- several passes ---


def test_gradients_accumulate_over_two_forward_and_backward_passes():
    compare(make_blocks(4, 0.1), make_tokens(), steps=2)


@pytest.mark.parametrize("keep", [0, 1])
def test_two_forwards_before_one_backward_are_independent(keep):
    blocks, x, z = make_blocks(4, 0.1), make_tokens(), make_tokens(8)

    class Twice(nn.Module):
        def __init__(self, backward):
            super().__init__()
            self.stack = BdiaStack(blocks, backward=backward, keep=keep)

        def forward(self, x, z):
            return self.stack(x) * self.stack(z)

    wanted, found = (gradients(Twice(mode), x, z, extra=[z]) for mode in ("stored", "reversible"))
    assert_bit_equal(found, wanted)


def test_two_forwards_then_two_backwards_in_either_order():
    stack, x, z = BdiaStack(make_blocks(4)), make_tokens(), make_tokens(8)
    results = []
    for order in ((0, 1), (1, 0)):
        x.grad = z.grad = None
        torch.manual_seed(0)
        losses = loss_of(stack(x)), loss_of(stack(z))
        for index in order:
            losses[index].backward()
        results.append((x.grad, z.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("keep", [0, 1])
def test_a_stack_may_feed_itself(keep):
    blocks, x = make_blocks(3, 0.1), make_tokens()

    class Recurrent(nn.Module):
        def __init__(self, backward):
            super().__init__()
            self.stack = BdiaStack(blocks, backward=backward, keep=keep)

        def forward(self, x):
            return self.stack(self.stack(x))

    wanted, found = (gradients(Recurrent(mode), x) for mode in ("stored", "reversible"))
    assert_bit_equal(found, wanted)


def test_the_output_may_be_used_more_than_once():
    blocks, x = make_blocks(4), make_tokens()

    class Reused(nn.Module):
        def __init__(self, backward):
            super().__init__()
            self.stack = BdiaStack(blocks, backward=backward, keep=0)

        def forward(self, x):
            out = self.stack(x)
            return out * out + out.detach()

    wanted, found = (gradients(Reused(mode), x) for mode in ("stored", "reversible"))
    assert_bit_equal(found, wanted)


def test_autograd_grad_of_the_input_alone_is_exact():
    blocks, x = make_blocks(5, 0.1), make_tokens()
    found = []
    for mode in ("stored", "reversible"):
        torch.manual_seed(0)
        found += torch.autograd.grad(loss_of(BdiaStack(blocks, backward=mode)(x)), [x])
    assert torch.equal(*found)


@pytest.mark.parametrize("lowest", [1, 3, 4])
def test_a_backward_that_stops_early_gives_exact_gradients(lowest):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    wanted = [p for block in blocks[lowest:] for p in block.parameters()]
    found = []
    for mode in ("stored", "reversible"):
        torch.manual_seed(0)
        found.append(torch.autograd.grad(loss_of(BdiaStack(blocks, backward=mode)(x)), wanted))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_ten_optimizer_steps_end_at_the_same_weights():
    start, x = make_blocks(4, 0.1), make_tokens().detach()
    ends = []
    for mode in ("stored", "reversible"):
        stack = BdiaStack(copy.deepcopy(start), backward=mode)
        optimizer = torch.optim.AdamW(stack.parameters(), 1e-2)
        torch.manual_seed(0)
        for _ in range(10):
            optimizer.zero_grad()
            stack(x).square().mean().backward()
            optimizer.step()
        ends.append(stack.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_hooks_on_parameters_and_on_the_output_fire_once_each():
    stack, fired = BdiaStack(make_blocks(4)), []
    for name, parameter in stack.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: fired.append(name))
    out = stack(make_tokens())
    out.register_hook(lambda grad: fired.append("output"))
    loss_of(out).backward()
    assert sorted(fired) == sorted([name for name, _ in stack.named_parameters()] + ["output"])


def test_parameter_gradients_arrive_block_by_block_from_the_last_so_ddp_can_overlap():
    stack, order = BdiaStack(make_blocks(4)), []
    for k, block in enumerate(stack):
        block.mlp[0].weight.register_post_accumulate_grad_hook(lambda _, k=k: order.append(k))
    loss_of(stack(make_tokens())).backward()
    assert order == [3, 2, 1, 0]


# --- the other stacks ---


@pytest.mark.parametrize("keep", [0, 1, 2, 9])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_checkpoint_gradients_equal_standard_gradients(keep, autocast):
    blocks, x = make_blocks(4, 0.1), make_tokens()
    wanted = gradients(StandardStack(blocks), x, autocast=autocast)
    assert_bit_equal(gradients(CheckpointStack(blocks, keep), x, autocast=autocast), wanted)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("merge", ["mean", "concat"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_revvit_on_the_grid_has_exactly_the_gradients_of_plain_autograd(depth, merge, dropout, autocast):
    blocks, x = make_blocks(depth, dropout), make_tokens()
    stack = RevVitStack(blocks, grid_bits=9, merge=merge)
    wanted = gradients(PlainRevVit(blocks, 9, merge), x, autocast=autocast)
    assert_bit_equal(gradients(stack, x, autocast=autocast), wanted)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("merge", ["mean", "concat"])
def test_revvit_in_float_has_the_gradients_of_plain_autograd_to_rounding(depth, merge):
    # Its inverse x_prev = x_next - y is off by about one float32 rounding (6e-8 relative) per branch.
    blocks, x = make_blocks(depth, 0.1), make_tokens()
    found, wanted = gradients(RevVitStack(blocks, merge=merge), x), gradients(PlainRevVit(blocks, None, merge), x)
    assert torch.equal(found[0], wanted[0])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_revvit_reports_its_reconstruction_error_when_asked():
    stack = RevVitStack(make_blocks(4), verify=True)
    loss_of(stack(make_tokens())).backward()
    assert sorted(stack.reconstruction_error) == list(range(1, 8))
    assert 0 < max(e.item() for e in stack.reconstruction_error.values()) < 1e-5


def test_revvit_passes_extra_inputs_to_attention():
    context, x, blocks = make_tokens(2), make_tokens(), make_blocks(3, 0.1)
    found = gradients(RevVitStack(blocks, grid_bits=9), x, context, extra=[context])
    assert_bit_equal(found, gradients(PlainRevVit(blocks, 9, "concat"), x, context, extra=[context]))


@pytest.mark.parametrize(
    "frozen", [["0.norm1", "0.attn"], ["0."], ["0.", "1."], ["1.attn", "1.norm1"], ["2."]], ids=str
)
@pytest.mark.parametrize("needs_input", [True, False])
def test_revvit_trains_exactly_with_frozen_parts(frozen, needs_input):
    blocks, x = nn.ModuleList(make_blocks(3, 0.1)), make_tokens().detach().requires_grad_(needs_input)
    for name, parameter in blocks.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))
    wanted = gradients(PlainRevVit(blocks, 9, "concat"), x)
    assert_bit_equal(gradients(RevVitStack(blocks, grid_bits=9), x), wanted)


class PlainRevVit(nn.Sequential):
    """RevViT's two equations in plain autograd, everything stored."""

    def __init__(self, blocks, bits, merge):
        super().__init__(*blocks)
        self.bits, self.merge = bits, merge

    def grid(self, z):
        z = z.float()
        return z if self.bits is None else z + (torch.round(z.detach() * 2**self.bits) / 2**self.bits - z.detach())

    def forward(self, x, *args):
        x1 = x2 = self.grid(x)
        for block in self:
            x1 = x1 + self.grid(block.drop_path1(block.attn(block.norm1(x2), *args)))
            x2 = x2 + self.grid(block.drop_path2(block.mlp(block.norm2(x1))))
        return torch.cat([x1, x2], -1) if self.merge == "concat" else (x1 + x2) / 2


@pytest.mark.parametrize("depth", [2, 4])
def test_the_float_form_is_close_to_stored_and_reports_an_error_per_block(depth):
    # Each inverse multiplies the rounding error by 1/gamma = 2: paper, Fig. 2.
    blocks, x = make_blocks(depth), make_tokens()
    stack = BdiaStack(blocks, bits=None, keep=0)
    found, wanted = gradients(stack, x), gradients(BdiaStack(blocks, bits=None, backward="stored"), x)
    assert torch.equal(found[0], wanted[0])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert sorted(stack.reconstruction_error) == list(range(1, depth))


def test_the_float_inverse_diverges_with_depth_and_the_grid_does_not():
    blocks, x = make_blocks(24), make_tokens()
    stack = BdiaStack(blocks, bits=None, keep=0)
    gradients(stack, x)
    errors = [stack.reconstruction_error[k].item() for k in sorted(stack.reconstruction_error)]
    assert errors[0] > 1000 * errors[-1] > 0
    compare(blocks, x, keep=0)


def test_block_type_is_free():
    compare([TinyBlock(), nn.Identity(), nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D)), TinyBlock()], make_tokens())


class WithAuxiliaryLoss(TinyBlock):
    """Leaves a loss of its own behind, as mixtures of experts do."""

    def forward(self, x):
        y = super().forward(x)
        self.auxiliary = self.mlp(self.norm1(x)).square().mean()
        return y


@pytest.mark.parametrize("keep", [0, 1])
def test_auxiliary_losses_of_blocks_join_the_main_loss_exactly(keep):
    found = []
    for mode in ("stored", "reversible"):
        torch.manual_seed(0)
        blocks, x = [WithAuxiliaryLoss(dropout=0.1) for _ in range(5)], make_tokens()
        stack = BdiaStack(blocks, backward=mode, keep=keep)
        loss = loss_of(stack(x)) + sum(block.auxiliary for block in blocks)
        loss.backward()
        found.append([x.detach(), x.grad, *(p.grad for p in stack.parameters())])
    assert_bit_equal(*found)


@pytest.mark.parametrize("kernel", ["compiled", "eager"])
@pytest.mark.parametrize("keep", [[1], [3], [0, 3], [2, 3], [0, 4]])
def test_gradients_are_those_of_stored_streams_with_kept_blocks_anywhere(keep, kernel):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    stored = gradients(BdiaStack(blocks, backward="stored", kernel=kernel), x, steps=2)
    assert_bit_equal(gradients(BdiaStack(blocks, keep=keep, kernel=kernel), x, steps=2), stored)


def test_a_stream_of_one_value_per_sample_trains():
    blocks = [torch.nn.PReLU() for _ in range(4)]
    BdiaStack(blocks)(torch.randn(7)).sum().backward()
    assert all(block.weight.grad is not None for block in blocks)


def test_a_rebuilt_stream_is_laid_out_as_its_block_saw_it_first():
    strides, blocks = [], make_blocks(4)
    blocks[0].register_forward_pre_hook(lambda block, inputs: strides.append(inputs[0].stride()))
    x = make_tokens().detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    loss_of(BdiaStack(blocks)(x)).backward()
    assert strides == [make_tokens().stride()] * 2


@pytest.mark.parametrize("partly_before", [False, True])
def test_an_auxiliary_loss_alone_has_its_gradients_where_everything_is_stored(partly_before):
    found = []
    for main in (None, 0.0):
        torch.manual_seed(0)
        blocks, x = [WithAuxiliaryLoss() for _ in range(5)], make_tokens()
        stack = BdiaStack(blocks, backward="stored")
        y = stack(x)
        if partly_before and main is None:
            torch.autograd.grad(loss_of(y), list(blocks[2].parameters()), retain_graph=True, allow_unused=True)
        loss = blocks[2].auxiliary if main is None else blocks[2].auxiliary + main * loss_of(y)
        loss.backward()
        found.append([x.detach(), x.grad, *(p.grad for block in blocks[:2] for p in block.parameters())])
    assert_bit_equal(*found)


def test_an_auxiliary_loss_alone_is_an_error_where_its_streams_are_released():
    blocks, x = [WithAuxiliaryLoss() for _ in range(5)], make_tokens()
    BdiaStack(blocks)(x)
    with pytest.raises(RuntimeError, match=r"stack\.backward=stored"):
        blocks[1].auxiliary.backward()
