"""The slow oracle of converted models agrees with the slow oracle of stacks, whatever way the layers are called."""

import pytest
import torch
from torch import nn

from bdia.reversible import TwoPoint
from bdia.reversible.arithmetic.reference import reference_forward
from helpers.reference_chain import reference_bdia
from helpers.reversible_helpers import (
    HALF,
    assert_bit_equal,
    assert_equal_tensors,
    assert_same_output_and_close_gradients,
    loss_of,
    make_blocks,
    make_tokens,
)

BITS = 9


def step(run, x, layers, law=HALF):
    """Output of `run` and the gradients of x and of every parameter, with seed 0."""
    wanted = [x, *(p for layer in layers for p in layer.parameters())]
    for tensor in wanted:
        tensor.grad = None
    torch.manual_seed(0)
    out = run(x)
    loss_of(out).backward()
    return [out.detach().clone(), *(tensor.grad.clone() for tensor in wanted)]


def oracle(layers, x, law=HALF, call=lambda layer: layer):
    """What `reference_forward` gives with the gammas that are drawn one layer after the other."""

    def run(x):
        gammas = [None, *(law.sample(x.shape[0]) for _ in layers[1:])]
        return reference_forward([call(layer) for layer in layers], x, gammas, BITS)[-1]

    return step(run, x, layers)


def chained(layers, x, loop, law=HALF, batch_dim=0):
    """The same of a loop over the layers under `reference_bdia`."""

    def run(x):
        with reference_bdia(layers, law, BITS, batch_dim):
            return loop(x)

    return step(run, x, layers)


def plain_loop(layers):
    def loop(x):
        for layer in layers:
            x = layer(x)
        return x

    return loop


@pytest.mark.parametrize("law", [HALF, TwoPoint("3/5")])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_a_plain_loop_gives_the_streams_of_the_equations(depth, law):
    layers, x = make_blocks(depth), make_tokens()
    assert_bit_equal(chained(layers, x, plain_loop(layers), law), oracle(layers, x, law))


class ByName(nn.Module):
    """A layer that takes its stream by name and returns a tuple."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, hidden_states, past_key_values=None, use_cache=False):
        assert past_key_values is None and not use_cache
        return self.block(hidden_states), hidden_states.mean()


def test_the_stream_may_be_a_keyword_and_the_output_a_tuple():
    layers, x = [ByName(block) for block in make_blocks(3)], make_tokens()

    def loop(x):
        for layer in layers:
            x, _ = layer(hidden_states=x, use_cache=True)
        return x

    wanted = oracle(layers, x, call=lambda layer: layer.block)
    assert_bit_equal(chained(layers, x, loop), wanted)


def test_a_cache_given_by_position_is_switched_off():
    layers, x = [ByName(block) for block in make_blocks(3)], make_tokens()

    def loop(x):
        for layer in layers:
            x, _ = layer(x, object(), True)
        return x

    wanted = oracle(layers, x, call=lambda layer: layer.block)
    assert_bit_equal(chained(layers, x, loop), wanted)


class SequenceFirst(nn.Module):
    """A layer whose stream has the batch second."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x.transpose(0, 1)).transpose(0, 1)


def test_gamma_is_drawn_per_sample_where_the_batch_is_the_second_dimension():
    layers, x = [SequenceFirst(block) for block in make_blocks(3)], make_tokens()
    loop = plain_loop(layers)
    found = chained(layers, x, lambda x: loop(x.transpose(0, 1)).transpose(0, 1), batch_dim=1)
    assert_same_output_and_close_gradients(found, oracle(layers, x, call=lambda layer: layer.block))


def test_a_layer_sees_bfloat16_where_the_model_does_and_the_stream_stays_float32():
    layers, x = [block.bfloat16() for block in make_blocks(3)], make_tokens().detach().bfloat16().requires_grad_()
    seen = []
    layers[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    found = chained(layers, x, plain_loop(layers))
    wanted = step(lambda x: oracle_states(layers, x)[-1].bfloat16(), x, layers)
    assert seen[0] == torch.bfloat16
    assert_bit_equal(found, wanted)


def oracle_states(layers, x):
    gammas = [None, *(HALF.sample(x.shape[0]) for _ in layers[1:])]
    return reference_forward([lambda z, layer=layer: layer(z.bfloat16()) for layer in layers], x, gammas, BITS)


def test_another_stream_starts_a_new_pass():
    layers, x = make_blocks(3), make_tokens()
    with reference_bdia(layers, HALF, BITS) as chain:
        layers[2](layers[1](layers[0](x)) + 1)
    assert chain.passes == [2, 1]


def test_a_shared_layer_goes_on_with_the_pass():
    (layer,), x = make_blocks(1), make_tokens()
    found = chained([layer], x, plain_loop([layer, layer, layer]))
    wanted = oracle([layer, layer, layer], x)
    assert_equal_tensors(found, wanted[: len(found)])


def test_a_layer_that_changes_the_shape_runs_as_it_is_and_the_pass_starts_after_it():
    layers, x = make_blocks(2), make_tokens()
    wide = nn.Linear(16, 16 * 2)
    loop = plain_loop([wide, nn.Linear(32, 16), *layers])
    with reference_bdia([wide, *layers], HALF, BITS) as chain:
        torch.manual_seed(0)
        found = loop(x)
    with reference_bdia(layers, HALF, BITS):
        torch.manual_seed(0)
        assert torch.equal(loop(x), found)
    assert chain.passes == [0, 2]


def test_layers_are_left_as_they_were_and_eval_mode_is_untouched():
    layers, x = make_blocks(3), make_tokens().detach()
    marker = layers[1].forward = lambda x, own=layers[1].forward: own(x)
    wanted = plain_loop([layer.eval() for layer in layers])(x)
    with reference_bdia(layers, HALF, BITS):
        assert torch.equal(plain_loop(layers)(x), wanted)
    assert layers[1].forward is marker
    assert "forward" not in layers[0].__dict__
