"""torch.compile of the layers of a converted model, before and after conversion, and of the whole model."""

import copy
import pickle

import pytest
import torch
from torch import nn

import bdia
from helpers.reversible_helpers import loss_of, make_blocks, make_tokens
from helpers.trainer_helpers import DEPTH, assert_trained_alike, batches, equal, llama, run_block, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def needs_compiler(backend):
    """Skip where inductor has no compiler."""
    try:
        torch.compile(torch.sin, backend=backend)(torch.ones(2))
    except Exception as error:
        pytest.skip(f"no compiler here: {error}")


class CountRuns:
    """A backend of torch.compile that counts graphs, and runs of what it compiled."""

    def __init__(self, backend="aot_eager"):
        self.graphs, self.runs, self._backend = [], 0, backend

    def __call__(self, graph, inputs):
        from torch._dynamo.backends.registry import lookup_backend

        self.graphs.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        compiled = lookup_backend(self._backend)(graph, inputs)

        def run(*args):
            self.runs += 1
            return compiled(*args)

        return run


class Blocks(nn.Module):
    """A model that loops over its layers."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(make_blocks(depth, dropout=0.1))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def compile_layers(model, backend, **settings):
    for layer in model.layers:
        layer.compile(backend=backend, **settings)


def compiled_step(how, backward, backend, depth=10, **settings):
    """Gradients of one compiled step, its backend, the report. `how` says what is compiled, and when."""
    torch._dynamo.reset()
    model, counted = Blocks(depth), CountRuns(backend)
    if how == "layers before":
        compile_layers(model, counted, **settings)
    report = bdia.convert(model, backward=backward)
    if how == "layers after":
        compile_layers(model, counted, **settings)
    run = torch.compile(model, backend=counted, **settings) if how == "model" else model
    torch.manual_seed(0)
    loss_of(run(make_tokens())).backward()
    return [p.grad for p in model.parameters()], counted, report


@pytest.mark.parametrize("how", ["layers before", "layers after", "model"])
def test_the_inside_of_layers_is_compiled_once_and_its_recomputation_runs_the_same_code(how):
    depth = 10  # more than torch compiles one function for, by default
    found, counted, report = compiled_step(how, "reversible", "aot_eager", depth)
    assert len(counted.graphs) == 1 and counted.graphs[0] > 10  # attention and MLP in one graph
    assert counted.runs == 2 * depth
    assert report.freed_bytes["layers"] > 0
    wanted, stored, _ = compiled_step(how, "stored", "aot_eager", depth)
    assert stored.runs == depth
    assert equal(found, wanted)
    assert equal(found, compiled_step("nothing", "stored", "aot_eager", depth)[0])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inductor"])
@pytest.mark.parametrize("how", ["layers before", "layers after", "model"])
def test_layers_compiled_by_inductor_have_the_gradients_of_stored(how, backend, needs_compiler):
    found, counted, report = compiled_step(how, "reversible", backend)
    assert counted.runs == 20 and report.freed_bytes["layers"] > 0
    assert equal(found, compiled_step(how, "stored", backend)[0])


@pytest.mark.parametrize("how", ["layers before", "layers after"])
def test_layers_may_be_compiled_without_graph_breaks(how):
    _, counted, _ = compiled_step(how, "reversible", "aot_eager", depth=2, fullgraph=True)
    assert counted.runs == 4


def test_a_whole_model_without_graph_breaks_is_refused_with_the_reason():
    with pytest.raises(RuntimeError, match=r"BDIA update .* outside compiled code"):
        compiled_step("model", "reversible", "aot_eager", depth=2, fullgraph=True)


def several_lengths(backward, backend):
    """Gradients of steps over several lengths, with two forwards before each backward."""
    torch._dynamo.reset()
    model = Blocks(3)
    bdia.convert(model, backward=backward)
    compile_layers(model, backend)
    gradients = []
    for length in (5, 7, 5, 6, 5):
        model.zero_grad()
        torch.manual_seed(0)
        losses = [loss_of(model(make_tokens(shape=(2, tokens, 16)))) for tokens in (length, 5)]
        sum(losses).backward()
        gradients += [p.grad.clone() for p in model.parameters()]
    return gradients


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_recomputation_finds_the_code_of_its_forward_after_the_length_has_changed(backend, needs_compiler):
    found, wanted = (several_lengths(mode, backend) for mode in ("reversible", "stored"))
    assert equal(found, wanted)


def test_compiled_layers_of_a_library_train_to_the_same_weights():
    def run(mode, backend):
        torch._dynamo.reset()
        model = llama()
        return run_block(
            "torch.compile", mode, model=model, layers=model.model.layers, batches=batches(2), backend=backend
        )

    counted = CountRuns()
    found, wanted = run("reversible", counted), run("stored", CountRuns())
    assert counted.runs >= 2 * 2 * DEPTH
    assert_trained_alike(found, wanted, weights(llama()))


def test_a_compiled_layer_stays_compiled_after_revert_and_its_copy_can_be_pickled():
    torch._dynamo.reset()
    model, counted = Blocks(2), CountRuns()
    bdia.convert(model)
    compile_layers(model, counted)
    model(make_tokens())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert bdia.revert(copied) == bdia.revert(model) == 2
    torch._dynamo.reset()
    counted.runs = 0
    model(make_tokens())
    assert counted.runs == 2
    model.eval(), copied.eval()
    assert torch.equal(model(make_tokens()), copied(make_tokens()))
