"""Whatever a model does with its layers: they train reversibly with right gradients, or somebody is told."""

import contextlib
import gc
import io
import itertools
import warnings

import numpy
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import bdia
from bdia.profiling import fit_to_memory
from bdia.profiling.traced_step import TrainingStep
from bdia.reversible import BdiaStack, EngineWarning, ReversibilityError
from helpers.loop_model import LoopModel, compare, step
from helpers.reference_chain import reference_bdia
from helpers.reversible_helpers import (
    HALF,
    D,
    LiveStorages,
    PeakStorages,
    TinyBlock,
    assert_bit_equal,
    assert_same_output_and_close_gradients,
    loss_of,
    make_blocks,
    make_tokens,
)


def compare_with_plain_autograd(make, x=None, around=None):
    """Assert that a converted model has the output and, to rounding, the gradients of a slow reference on its own loop.

    The reference (tests/helpers/reference_chain.py) stores everything and shares no code with the engine.
    """
    x = make_tokens() if x is None else x
    reference, converted = make(), make()
    with reference_bdia(list(reference.layers), HALF, 9):
        wanted = step(reference, x)
    bdia.convert(converted, layers="layers")
    assert_same_output_and_close_gradients(step(converted, x), wanted)


@contextlib.contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        yield


# --- the stream changed between layers, layers skipped, shared, called twice ---


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_plain_loop_trains_reversibly_and_says_nothing(keep):
    with no_warning():
        report = compare(LoopModel, keep=keep)
    assert report.freed_bytes["layers"] > 0


def test_a_stream_changed_in_the_middle_starts_a_new_pass():
    with no_warning():
        report = compare(lambda: LoopModel(6, between=lambda x, k: x * 1.5 if k == 2 else x))
    assert report.freed_bytes["layers"] > 0


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x, k: x + 1.0, "something is computed from the stream between two layers"),
        (lambda x, k: x.clone(), "something is computed"),
        (lambda x, k: x[:, : 4 - k] if k < 4 else x, r"the stream's shape changes from \(2, 5, 16\) to \(2, 4, 16\)"),
        (lambda x, k: x.unflatten(2, (2, -1)).flatten(2).transpose(0, 1).contiguous().transpose(0, 1), "something"),
    ],
    ids=["sum", "copy", "shorter", "relaid"],
)
def test_passes_of_one_layer_are_told_once_with_the_reason(between, reason):
    model, x = LoopModel(between=between), make_tokens()
    report = bdia.convert(model, layers="layers")
    with pytest.warns(EngineWarning, match=f"short passes: {reason}") as caught:
        step(model, x)
        step(model, x)
    assert len(caught) == 1 and report.freed_bytes == {"layers": 0}
    compare(lambda: LoopModel(between=between))


def test_an_in_place_change_between_layers_is_an_error_that_names_it_and_right_with_everything_stored():
    def change(x, k):
        return x.add_(1.0) if k == 2 else x

    model = LoopModel(between=change)
    bdia.convert(model)
    with pytest.raises(RuntimeError, match=r"x_3, returned by layer 2, was modified by an inplace.*backward=stored"):
        step(model, make_tokens())
    stored, wanted = LoopModel(between=change), LoopModel(between=lambda x, k: x + 1.0 if k == 2 else x)
    for each in (stored, wanted):
        bdia.convert(each, backward="stored")
    assert_bit_equal(step(stored, make_tokens()), step(wanted, make_tokens()))


class Skipping(LoopModel):
    """Leaves out some layers, calls some twice, or stops early."""

    def __init__(self, order):
        super().__init__(6)
        self.order = order

    def forward(self, x):
        for k in self.order:
            x = self.layers[k](x)
        return x


@pytest.mark.parametrize(
    "order", [[0, 1, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2], [0, 1, 1, 2, 2, 3], [3, 2, 1, 0], [0] * 7, [2]], ids=str
)
def test_layers_may_be_skipped_repeated_reordered_or_left_out_at_the_end(order):
    with no_warning():
        report = compare(lambda: Skipping(order))
    assert (report.freed_bytes["layers"] > 0) == (len(order) > 1)


def test_a_layer_that_is_given_the_same_stream_twice_starts_a_pass_of_its_own():
    class Forked(LoopModel):
        def forward(self, x):
            for layer in self.layers[:3]:
                x = layer(x)
            return self.layers[3](x) * self.layers[4](x)

    compare(Forked)


def test_two_forwards_of_a_converted_model_may_be_backpropagated_in_either_order():
    x, z = make_tokens(), make_tokens(8)
    model = LoopModel()
    bdia.convert(model)
    found = []
    for order in ((0, 1), (1, 0)):
        x.grad = z.grad = None
        torch.manual_seed(0)
        losses = loss_of(model(x)), loss_of(model(z))
        for index in order:
            losses[index].backward()
        found.append([x.grad, z.grad])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_chains_that_lie_in_each_other_are_refused():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([LoopModel(3) for _ in range(3)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    with pytest.raises(ValueError, match=r"layers\.0\.layers stands twice, or lies in another chain"):
        bdia.convert(Outer(), layers=["layers", "layers.0.layers"])
    assert list(bdia.convert(Outer()).chains) == ["layers.0.layers", "layers.1.layers", "layers.2.layers"]
    stack = BdiaStack([BdiaStack(make_blocks(2)), BdiaStack(make_blocks(2))], keep=0)
    with pytest.raises(RuntimeError, match="another reversible stack around it"):
        stack(make_tokens())


def test_an_exception_inside_a_layer_leaves_the_next_step_right():
    model, x = LoopModel(), make_tokens()
    bdia.convert(model)
    wanted = step(model, x)
    handle = model.layers[3].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x)
    handle.remove()
    assert_bit_equal(step(model, x), wanted)


@pytest.mark.parametrize("owner", ["model", "stack"])
@pytest.mark.parametrize("call", ["positional", "keyword"])
def test_a_further_layer_of_a_model_with_its_own_loop_holds_one_bit_per_activation(owner, call):
    def held(depth):
        model, x = Wide(depth), torch.zeros(8, 64, 1024)
        if owner == "model":
            bdia.convert(model)
        else:
            model.layers = BdiaStack(list(model.layers), keep=0)
        with LiveStorages(model, x) as live:
            out = model(x)
            gc.collect()
            total = live.census()
        del out
        return total

    class Wide(LoopModel):
        def __init__(self, depth):
            nn.Module.__init__(self)
            self.layers = nn.ModuleList([Bend() for _ in range(depth)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x) if call == "positional" else layer(x=x)
            return x

    class Bend(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.inside = nn.Parameter(torch.ones(1024)), nn.Identity()

        def forward(self, x):
            return x + torch.sin(x * self.weight)

    assert 1 <= 8 * (held(20) - held(4)) / 16 / (8 * 64 * 1024) < 1.2


# --- the same against plain autograd, which shares no routing with the engine ---


class Held(LoopModel):
    """Keeps every stream, so that its memory is alive, and changes the stream after layer 2 in one way."""

    def __init__(self, change):
        super().__init__(5, dropout=0.0)
        self.change = change

    def forward(self, x):
        self.held = []
        for k, layer in enumerate(self.layers):
            x = layer(x)
            self.held.append(x)
            x = self.change(x) if k == 2 else x
        return x


CHANGES = {
    "none": lambda x: x,
    "detached": lambda x: x.detach(),
    "scaled": lambda x: x * 1.5,
    "copied": lambda x: x.clone(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_gradients_are_those_of_plain_autograd_whatever_happens_to_a_stream_that_is_held(change):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        compare_with_plain_autograd(lambda: Held(change))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 4], [3, 4, 5, 1], [0, 0, 0]], ids=str)
def test_gradients_are_those_of_plain_autograd_for_any_order_of_calls(order):
    def make():
        model = Skipping(order)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return model

    compare_with_plain_autograd(make)


def test_two_layers_that_get_the_same_stream_have_the_gradients_of_plain_autograd():
    class Forked(LoopModel):
        def __init__(self):
            super().__init__(5, dropout=0.0)

        def forward(self, x):
            for layer in self.layers[:3]:
                x = layer(x)
            self.held = [x, self.layers[3](x), self.layers[4](x)]
            return self.held[1] * self.held[2]

    compare_with_plain_autograd(Forked)


def test_a_detached_stream_sends_no_gradient_around_the_cut():
    model, x = Held(CHANGES["detached"]), make_tokens()
    bdia.convert(model)
    loss_of(model(x)).backward()
    assert x.grad is None
    reached = [any(p.grad is not None for p in layer.parameters()) for layer in model.layers]
    assert reached == [False, False, False, True, True]


def test_layers_that_start_without_gradients_or_in_eval_are_ordinary_and_the_rest_trains_reversibly():
    class Frozen(LoopModel):
        def forward(self, x):
            with torch.no_grad():
                for layer in self.layers[:2]:
                    x = layer(x)
            for layer in self.layers[2:]:
                x = layer(x)
            return x

    with no_warning():
        assert compare(lambda: Frozen(6)).freed_bytes["layers"] > 0

    def tuned():
        model = LoopModel(6)
        for layer in model.layers[:2]:
            layer.eval().requires_grad_(False)
        return model

    assert compare(tuned).freed_bytes["layers"] > 0


def test_a_model_that_feeds_itself_takes_a_pass_a_turn_and_goes_on_after_a_backward():
    model, x = LoopModel(dropout=0.0), make_tokens()
    bdia.convert(model)
    torch.manual_seed(0)
    once = model(model(x))
    torch.manual_seed(0)
    assert torch.equal(once, model(model(x).clone()))
    hidden = model(x)
    for _ in range(3):  # truncated backpropagation through time
        loss_of(hidden).backward()
        hidden = model(hidden.detach())
    assert hidden.requires_grad


def test_a_model_switched_to_eval_does_not_go_on_with_the_training_pass():
    model, x = LoopModel(dropout=0.0), make_tokens()
    bdia.convert(model, quantize_eval=True)
    hidden = model(x)
    model.eval()
    assert torch.equal(model(hidden), model(hidden.clone()))


def test_a_shared_layer_whose_stream_is_changed_between_its_calls_is_told():
    class Injected(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = TinyBlock(D)

        def forward(self, x):
            z = x
            for _ in range(4):
                z = self.layer(z + x)
            return z

    model = Injected()
    bdia.convert(model, layers="layer")
    with pytest.warns(EngineWarning, match="short passes: something is computed"):
        step(model, make_tokens())


def test_a_fault_after_a_changed_stream_names_the_layer_and_keep_means_the_last_layers():
    model = LoopModel(6, between=lambda x, k: x * 1.0 if k == 2 else x)
    runs = [0] * 6
    for k, layer in enumerate(model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, k=k: runs.__setitem__(k, runs[k] + 1))
    bdia.convert(model, keep=1)
    step(model, make_tokens())
    assert runs == [2, 2, 2, 2, 2, 1]
    numbers = itertools.count()
    model.layers[4].norm1.register_forward_hook(lambda m, args, out: out + next(numbers))
    with pytest.raises(ReversibilityError, match="block 4:"):
        step(model, make_tokens())


def test_saved_attention_with_a_mask_that_does_not_repeat_itself_is_caught():
    class Masked(TinyBlock):
        def forward(self, x):
            mask = torch.from_numpy(numpy.random.rand(x.shape[1], x.shape[1]) > 0.3) | torch.eye(x.shape[1]).bool()
            return super().forward(x, mask=mask)

    torch.manual_seed(0)
    for save in ([], ["attention"]):
        with pytest.raises(ReversibilityError):
            loss_of(BdiaStack([Masked() for _ in range(4)], save=save)(make_tokens())).backward()


def test_a_loss_of_an_inner_state_and_a_later_layer_s_own_loss_train():
    class Auxiliary(LoopModel):
        def forward(self, x):
            for layer in self.layers:
                before, x = x, layer(x)
            self.auxiliary = self.extra
            return before

    def make():
        model = Auxiliary(4, dropout=0.0)
        last = model.layers[3]
        last.norm2.register_forward_hook(lambda m, a, out: setattr(model, "extra", out.square().mean()))
        return model

    x = make_tokens()
    found = []
    for backward in ("stored", "reversible"):
        model = make()
        bdia.convert(model, backward=backward)
        x.grad = None
        torch.manual_seed(0)
        out = model(x)
        (loss_of(out) + model.auxiliary).backward()
        found.append([out.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert_bit_equal(*found)


# --- backward, more than once or batched ---


def test_a_second_backward_and_a_graph_of_the_gradient_are_refused_in_the_language_of_arguments():
    model, x = LoopModel(), make_tokens()
    bdia.convert(model)
    loss = loss_of(model(x))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"second backward.*or set backward=stored"):
        loss.backward()
    with pytest.raises(RuntimeError, match=r"create_graph=True.*set backward=stored"):
        torch.autograd.grad(loss_of(model(x)), x, create_graph=True)


@pytest.mark.parametrize("backward", ["reversible", "stored"])
def test_a_batch_of_gradients_is_refused(backward):
    model, x = LoopModel(dropout=0.0), make_tokens()
    bdia.convert(model, backward=backward)
    out = model(x)
    with pytest.raises(RuntimeError, match="is_grads_batched and vmap do not go through"):
        torch.autograd.grad(out, x, torch.ones(3, *out.shape), is_grads_batched=True)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
        lambda f, x: torch.func.vmap(f, randomness="different")(x.expand(2, *x.shape)),
        lambda f, x: torch.func.jvp(f, (x,), (x,)),
    ],
    ids=["grad", "vmap", "jvp"],
)
@pytest.mark.parametrize("of", ["model", "stack"])
def test_transforms_of_torch_func_are_refused(transform, of):
    model = LoopModel() if of == "model" else BdiaStack(make_blocks(3))
    if of == "model":
        bdia.convert(model)
    with pytest.raises(RuntimeError, match=r"torch\.func transforms.*do not go through a reversible stack"):
        transform(model, make_tokens().detach())


# --- somebody else's checkpointing ---


class Checkpointing(LoopModel):
    """Checkpoints each layer, pairs of layers, or all of them, in either of torch's ways."""

    def __init__(self, per, reentrant):
        super().__init__(4)
        self.per, self.reentrant = per, reentrant

    def forward(self, x):
        for start in range(0, 4, self.per):
            x = checkpoint(self._some, x, start, use_reentrant=self.reentrant)
        return x

    def _some(self, x, start):
        for layer in self.layers[start : start + self.per]:
            x = layer(x)
        return x


@pytest.mark.parametrize("per", [1, 2, 4])
def test_a_checkpoint_around_converted_layers_is_refused(per):
    model = Checkpointing(per, reentrant=False)
    bdia.convert(model)
    with pytest.raises(RuntimeError, match=r"inside another activation checkpoint.*set_grad_checkpointing"):
        model(make_tokens())


@pytest.mark.parametrize("per", [1, 2])
def test_a_reentrant_checkpoint_around_some_converted_layers_is_refused(per):
    model = Checkpointing(per, reentrant=True)
    bdia.convert(model)
    with pytest.raises(RuntimeError, match=r"inside another activation checkpoint"):
        loss_of(model(make_tokens())).backward()


def test_a_reentrant_checkpoint_around_the_whole_chain_changes_no_gradient():
    plain, wrapped = LoopModel(4), Checkpointing(4, reentrant=True)
    for model in (plain, wrapped):
        bdia.convert(model)
    assert_bit_equal(step(wrapped, make_tokens()), step(plain, make_tokens()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_past_a_stack_is_refused(reentrant):
    stack, x = BdiaStack(make_blocks(4)), make_tokens()

    def past(x):
        for block in stack.children():
            x = checkpoint(block, x, use_reentrant=reentrant)
        return x

    with pytest.raises(RuntimeError, match=r"inside another activation checkpoint"):
        loss_of(past(x)).backward()


def test_timm_s_own_checkpointing_beside_a_stack_or_a_conversion_is_refused_or_switched_off():
    timm = pytest.importorskip("timm")
    images = torch.randn(2, 3, 32, 32)
    make = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 5}
    model = timm.models.vision_transformer.VisionTransformer(**make)
    model.blocks = BdiaStack(model.blocks)
    model.set_grad_checkpointing(True)
    with pytest.raises(RuntimeError, match=r"set_grad_checkpointing\(False\)"):
        model(images).sum().backward()
    model = timm.models.vision_transformer.VisionTransformer(**make)
    model.set_grad_checkpointing(True)
    with pytest.warns(EngineWarning, match="activation checkpointing was on and is switched off"):
        report = bdia.convert(model)
    model(images).sum().backward()
    assert report.freed_bytes["blocks"] > 0
    model.set_grad_checkpointing(True)
    with pytest.raises(RuntimeError, match="inside another activation checkpoint"):
        model(images).sum().backward()


# --- a stack where the model iterates ---


LOOPS = {
    "for": lambda layers, x: [x := layer(x) for layer in layers][-1],
    "enumerate": lambda layers, x: [x := layer(x) for _, layer in enumerate(layers)][-1],
    "zip": lambda layers, x: [x := layer(x) for layer, _ in zip(layers, range(9), strict=False)][-1],
    "slice": lambda layers, x: [x := layer(x) for layer in layers[:5]][-1],
    "called slice": lambda layers, x: layers[:5](x),
    "called": lambda layers, x: layers(x),
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("keep", [0, 1])
def test_a_stack_trains_the_same_whether_the_model_calls_it_or_loops_over_it(loop, keep):
    class Looping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = BdiaStack(make_blocks(5, 0.1), HALF, keep=keep)

        def forward(self, x):
            return loop(self.layers, x)

    class Called(Looping):
        def forward(self, x):
            return self.layers(x)

    found, wanted = Looping(), Called()
    with no_warning():
        assert_bit_equal(step(found, make_tokens()), step(wanted, make_tokens()))
    assert found.layers.rebuilt == wanted.layers.rebuilt > 0
    assert torch.equal(found.eval()(make_tokens()), wanted.eval()(make_tokens()))
    assert all("forward" not in block.__dict__ for block in found.layers.blocks)


def test_a_block_that_a_model_reaches_by_its_index_is_told():
    stack = BdiaStack(make_blocks(4))
    with pytest.warns(
        EngineWarning, match=r"past the stack: a block was called without its reversible stack.*bdia\.convert"
    ):
        stack[1](make_tokens())
    with no_warning():
        stack.eval()[1](make_tokens())
        stack.train()
        with torch.no_grad():
            stack[1](make_tokens())


def test_fit_to_memory_works_on_a_stack_that_the_model_loops_over():
    model = LoopModel(8)
    model.layers = BdiaStack(list(model.layers))

    def make_step(model):
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        x = torch.randn(32, 50, D)

        def run():
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return TrainingStep(model, optimizer, [x], run)

    fit = fit_to_memory(model, make_step, budget=0.5)
    assert model.layers.keep == fit.kept_blocks and 0 < fit.kept_blocks < 8


# --- states that somebody holds ---


HOLDERS = {
    "pre-hook": lambda layer, keep: layer.register_forward_pre_hook(lambda m, args: keep(args[0])),
    "hook": lambda layer, keep: layer.register_forward_hook(lambda m, args, out: keep(out)),
    "inner pre-hook": lambda layer, keep: layer.norm1.register_forward_pre_hook(lambda m, args: keep(args[0])),
    "inner hook": lambda layer, keep: layer.norm1.register_forward_hook(lambda m, args, out: keep(out)),
    "detached": lambda layer, keep: layer.register_forward_pre_hook(lambda m, args: keep(args[0].detach())),
    "view": lambda layer, keep: layer.register_forward_pre_hook(lambda m, args: keep(args[0][:, 1:].detach())),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("owner", ["model", "stack"])
def test_what_a_hook_keeps_has_its_values_during_and_after_forward_and_backward(holder, owner):
    model, x, held, copies = LoopModel(6), make_tokens(), [], []
    if owner == "model":
        bdia.convert(model)
    else:
        model.layers = BdiaStack(list(model.layers), keep=0)
    wanted = step(model, x)

    def keep(t):
        held.append(t)
        copies.append(t.detach().clone())

    handles = [holder(layer, keep) for layer in list(model.layers)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        found = step(model, x)
    assert len(held) >= 6 and all(torch.equal(t, copy) for t, copy in zip(held, copies, strict=True))
    assert_bit_equal(found, wanted)
    buffer = io.BytesIO()
    torch.save([t.detach() for t in held], buffer)
    buffer.seek(0)
    assert all(torch.equal(a, b) for a, b in zip(torch.load(buffer), copies, strict=True))
    for handle in handles:
        handle.remove()


def test_what_a_backward_hook_keeps_has_its_values():
    model, x, held = LoopModel(5), make_tokens(), []
    bdia.convert(model)
    wanted = step(model, x)
    for layer in model.layers:
        layer.register_full_backward_hook(lambda m, into, out: held.extend((g, g.clone()) for g in (*into, *out)))
    assert_bit_equal(step(model, x), wanted)
    assert len(held) == 10 and all(torch.equal(*pair) for pair in held)


def test_a_numpy_view_and_a_raw_storage_of_a_state_keep_their_values():
    model, held = LoopModel(5), []
    bdia.convert(model)
    for layer in model.layers:
        layer.register_forward_hook(lambda m, args, out: held.append((out.detach().numpy(), out.detach().clone())))
        layer.register_forward_hook(lambda m, a, out: held.append((out.untyped_storage(), out.detach().clone())))
    with pytest.warns(EngineWarning, match="held states"):
        step(model, make_tokens())
    for kept, copy in held:
        seen = torch.from_numpy(kept) if not isinstance(kept, torch.UntypedStorage) else torch.empty(0).set_(kept)
        assert torch.equal(seen.flatten(), copy.flatten())


def test_states_that_somebody_holds_are_counted_and_named_once():
    model, held = LoopModel(6), []
    bdia.convert(model)
    for k in (1, 3):
        model.layers[k].register_forward_hook(lambda m, args, out: held.append(out.detach()))
    with pytest.warns(EngineWarning, match=r"held states: 2 of 5 residual streams.*: x_2, x_4\.") as caught:
        step(model, make_tokens())
        step(model, make_tokens())
    assert len(caught) == 1


def test_a_loss_over_all_hidden_states_has_the_stored_gradients():
    class AllStates(LoopModel):
        def forward(self, x):
            states = [x]
            for layer in self.layers:
                states.append(layer(states[-1]))
            return torch.stack(states)

    compare(AllStates)


def test_a_list_that_layers_share_is_right_or_an_error_that_says_so():
    class Shares(LoopModel):
        def __init__(self, kind):
            super().__init__(4, dropout=0.0)
            self.kind, self.shared = kind, {}
            for k, layer in enumerate(self.layers):
                layer.forward = self._forward(k, layer)

        def _forward(self, k, layer):
            own = type(layer).forward.__get__(layer)

            def forward(x):
                if k < 2:
                    self.shared.setdefault("list", []).append(x) if self.kind == "list" else None
                    self.shared[k] = x
                else:
                    x = x + 0.5 * (self.shared["list"].pop() if self.kind == "list" else self.shared[3 - k])
                return own(x)

            return forward

    compare(lambda: Shares("dict"))
    model = Shares("list")
    bdia.convert(model)
    with pytest.raises(ReversibilityError, match=r"block 3: .*raised IndexError.*a list it was given"):
        step(model, make_tokens())


# --- nested checkpoints of submodules that are called by keyword ---


class ByKeyword(TinyBlock):
    """Calls its attention as Llama does."""

    def __init__(self):
        super().__init__(64)
        self.inner = nn.ModuleDict({"attention": self.attn})
        del self.attn
        self.attention = Keyword(self.inner["attention"])

    def forward(self, x):
        x = x + self.attention(hidden=self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Keyword(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden):
        return self.attention(hidden)


def test_nested_submodules_may_get_their_tensors_by_keyword():
    def peak(depth, **settings):
        torch.manual_seed(0)
        stack, x = BdiaStack([ByKeyword() for _ in range(depth)], keep=0, **settings), torch.zeros(4, 64, 64)
        with PeakStorages(stack, x) as live:
            loss_of(stack(x)).backward()
        return live.peak

    shallow, deep = (peak(depth, nested=["attention"]) for depth in (4, 12))
    assert peak(12) > deep
    stream = 4 * 64 * 64 * 4
    weights = sum(p.numel() * 4 for p in ByKeyword().parameters())
    assert deep - shallow < 8 * (weights + stream / 4)  # the gradients of eight blocks, and less than a stream of each
