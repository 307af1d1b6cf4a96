"""`checkpoint_two_level`: the standard training of any model, bit for bit, with few of its layers' inputs held."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

import bdia
from helpers.loop_model import LoopModel, step
from helpers.reversible_helpers import LiveStorages, assert_bit_equal, make_tokens


def both(depth=7, segments=None, **settings):
    standard, changed = LoopModel(depth, **settings), LoopModel(depth, **settings)
    bdia.checkpoint_two_level(changed, segments, layers="layers")
    return standard, changed


@pytest.mark.parametrize("depth", [2, 3, 5, 9])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_the_standard_training_bit_for_bit(depth, dropout, autocast):
    x, (standard, changed) = make_tokens(), both(depth, dropout=dropout)
    with torch.autocast("cpu", torch.bfloat16, autocast):
        assert_bit_equal(step(changed, x), step(standard, x))


def test_backward_restores_autocast_and_random_state_that_held_in_forward():
    x, found = make_tokens(), []
    for model in both(6, dropout=0.2):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        state = torch.get_rng_state()
        out.float().square().mean().backward()  # outside autocast
        assert torch.equal(torch.get_rng_state(), state)
        found.append([p.grad for p in model.parameters()])
    assert_bit_equal(found[1], found[0])


def test_a_layer_that_ran_without_autocast_runs_again_without_it():
    x, found = make_tokens(), []
    for model in both(6, 1):
        for layer in list(model.layers)[::2]:
            layer.register_forward_pre_hook(lambda *_: torch.set_autocast_enabled("cpu", False))
            layer.register_forward_hook(lambda *_: torch.set_autocast_enabled("cpu", True))
        with torch.autocast("cpu", torch.bfloat16):
            found.append(step(model, x))
    assert_bit_equal(found[1], found[0])


@pytest.mark.parametrize(("segments", "kept"), [(1, 1), (4, 4), (16, 16), (None, 4)])
def test_between_forward_and_backward_one_stream_a_segment_is_held(segments, kept):
    x, (_, changed) = make_tokens(), both(16, segments)
    step(changed, x)
    with LiveStorages(changed, x) as live:
        out = changed(x)
        # the first segment keeps x, which was there before; the output is one more
        assert live.sizes().count(x.nbytes) == kept
        out.sum().backward(retain_graph=True)
        x.grad = None
        assert live.sizes().count(x.nbytes) == kept, "what was rebuilt is given away"


@pytest.mark.parametrize("change", [torch.mul, Tensor.mul_], ids=["anew", "in place"])
def test_a_loop_that_changes_the_stream_between_layers_starts_new_segments(change):
    settings = {"between": lambda x, k: change(x, 1.5) if k == 2 else x}
    x, (standard, changed) = make_tokens(), both(8, 1, **settings)
    assert_bit_equal(step(changed, x), step(standard, x))


def test_frozen_leading_layers_two_backwards_and_two_forwards_train_as_ever():
    x, models, found = make_tokens(), both(9), []
    for model in models:
        for layer in list(model.layers)[:4]:
            layer.requires_grad_(False)
        torch.manual_seed(1)
        first, second = model(x.detach()), model(x.detach() * 2)
        first.sum().backward(retain_graph=True)
        first.sum().backward()
        second.sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert_bit_equal(found[1], found[0])


def test_an_input_that_was_changed_in_place_is_refused():
    x, (_, changed) = make_tokens(), both(4)
    out = changed(x * 1.0)
    out.sum().backward()
    kept = (x * 1.0).detach().requires_grad_()
    out = changed(kept)
    with torch.no_grad():
        kept.add_(1)
    with pytest.raises(RuntimeError, match="was changed in place between forward and backward"):
        out.sum().backward()


def test_compiled_layers_train_exactly():
    torch._dynamo.reset()
    x, (standard, changed) = make_tokens(), both(5, dropout=0.0)
    for layer in changed.layers:
        layer.compile(backend="aot_eager")
    assert_bit_equal(step(changed, x), step(standard, x))


def test_revert_copies_and_evaluation_are_those_of_convert():
    x, (standard, changed) = make_tokens(), both(4)
    step(changed, x)
    assert_bit_equal(step(copy.deepcopy(changed), x), step(standard, x))
    assert_bit_equal(step(pickle.loads(pickle.dumps(changed)), x), step(standard, x))
    assert torch.equal(changed.eval()(x), standard.eval()(x))
    with pytest.raises(ValueError, match=r"converted already: call bdia.revert\(model\) first"):
        bdia.checkpoint_two_level(changed)
    assert bdia.revert(changed) == 4 and bdia.checkpoint_two_level(changed, layers="layers") == {"layers": 2}


@pytest.mark.parametrize("segments", [0, 5, 1.5])
def test_another_number_of_segments_is_refused(segments):
    with pytest.raises(ValueError, match=rf"segments={segments}: wanted a whole number from 1 to 4"):
        bdia.checkpoint_two_level(LoopModel(4), segments, layers="layers")
