"""A traced step against the same step measured, and what tracing must not touch."""

import doctest
import functools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import bdia.profiling.traced_step
from bdia.build import compose
from bdia.models.dropout import Dropout
from bdia.optim import in_backward
from bdia.profiling.fake_results import FakeResults
from bdia.profiling.traced_step import TrainingStep, fake_tensors, trace_moments, trace_step
from bdia.profiling.workload import build_workload
from bdia.reversible import BdiaStack
from helpers.step_peaks import as_step, measured_peak

STACKS = {
    "standard": ["stack=standard"],
    "checkpoint": ["stack=checkpoint"],
    "revvit": ["stack=revvit"],
    "bdia": ["stack=bdia", "stack.keep=0"],
}
WIDE = "model.net.width=32"
MODELS = {  # overrides, tokens, keys of the depth; wide against their vocabularies, so that blocks matter
    "vit_demo": ([WIDE, "model.net.heads=2"], None, ["depth"]),
    "gpt2_demo": ([WIDE], 24, ["depth"]),
    "seq2seq_demo": ([WIDE, "model.net.mlp_hidden=64"], 12, ["encoder_depth", "decoder_depth"]),
}


def make_step(model, stack, depth, batch=16, *more):
    overrides, tokens, keys = MODELS[model]
    depths = [f"model.net.{key}={depth}" for key in keys]
    cfg = compose([f"model={model}", *STACKS[stack], *overrides, *depths, *more])
    return as_step(build_workload(cfg, batch, tokens, vocab_size=64))


@pytest.mark.parametrize("depth", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stack", STACKS)
def test_the_predicted_peak_is_the_measured_one(stack, model, depth, one_thread):
    found = trace_step(lambda: make_step(model, stack, depth))
    meter = measured_peak(make_step(model, stack, depth))
    assert found.peak == pytest.approx(meter.peak, rel=0.001)
    assert found.gradients == pytest.approx(meter.gradients_at_peak, rel=0.001)


@pytest.mark.parametrize("more", [["trainer.precision=bf16-mixed"], ["optimizer=adamw"], ["stack.save=[attention]"]])
def test_precision_optimizer_and_policy_are_in_the_prediction(more, one_thread):
    found = trace_step(lambda: make_step("gpt2_demo", "bdia", 4, 16, *more))
    assert found.peak == pytest.approx(measured_peak(make_step("gpt2_demo", "bdia", 4, 16, *more)).peak, rel=0.001)
    if "optimizer" not in more[0]:  # both optimizers hold two moments
        assert found.peak != trace_step(lambda: make_step("gpt2_demo", "bdia", 4)).peak


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_the_predicted_peak_of_the_papers_model_is_the_measured_one(stack):
    def step():
        return as_step(build_workload(compose(["model=vit_paper", *STACKS[stack]]), 128))

    assert trace_step(step).peak == pytest.approx(measured_peak(step()).peak, rel=0.001)


def test_on_a_gpu_dropout_of_a_large_tensor_keeps_a_byte_of_mask_per_entry():
    def step():
        model, x = nn.Sequential(nn.Linear(64, 64), Dropout(0.1)), torch.randn(2048, 64)
        optimizer = torch.optim.SGD(model.parameters())

        def run():
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return TrainingStep(model, optimizer, [x], run)

    gpu, cpu = (trace_step(step, device).held for device in ("cuda", "cpu"))
    assert gpu - cpu == 2048 * 64 - 8  # on a CPU the hash's key


def test_the_categories_add_up_and_state_is_counted_exactly():
    cost = trace_step(lambda: make_step("vit_demo", "bdia", 4))
    weights = sum(p.nbytes for p in make_step("vit_demo", "bdia", 4).model.parameters())
    assert cost.parameters == weights
    assert 2 * weights <= cost.optimizer <= 2 * weights + 4 * 1000
    assert cost.other == 16 * (3 * 32 * 32 * 4 + 8)
    assert cost.peak == sum((cost.parameters, cost.gradients, cost.optimizer, cost.activations, cost.other))


def test_flops_are_torchs_and_those_of_the_cpus_fused_attention(one_thread):
    step = make_step("vit_demo", "standard", 2)
    with FlopCounterMode(display=False) as counter:
        step.run()
    product = 2 * (16 * 2 * 17 * 17 * 16)  # B H T T times the width of a head, multiplied and added
    attention = 2 * (2 + 5) * product  # in both blocks, two products forward and five backward
    found = trace_step(lambda: make_step("vit_demo", "standard", 2)).flops
    assert found == counter.get_total_flops() + attention


def test_a_standard_block_holds_more_than_thirty_times_what_a_bdia_block_does():
    def held(stack):
        costs = [trace_step(lambda depth=depth: make_step("vit_demo", stack, depth)).held for depth in (3, 4)]
        return costs[1] - costs[0]

    assert 1 <= held("bdia") / (16 * 17 * 32 / 8) < 1.2  # a bit per activation; then gamma and an integrity sum
    assert held("standard") > 30 * held("bdia")


class Mlp(nn.Module):
    """Two layers, of which one may be unused or frozen."""

    def __init__(self, used=True):
        super().__init__()
        self.first, self.second, self.used = nn.Linear(64, 64), nn.Linear(64, 64), used

    def forward(self, x):
        return self.second(self.first(x)) if self.used else self.first(x)


def mlp_step(model=None, optimizer=torch.optim.AdamW, accumulates=False, rows=(8,)):
    model = model or Mlp()
    made = optimizer(model.parameters())
    batches = [torch.randn(n, 64) for n in rows]

    def run():
        for x in batches:
            model(x).sum().backward()
            made.step()
            if not accumulates:
                made.zero_grad()

    return TrainingStep(model, made, batches, run, accumulates)


def test_a_parameter_without_a_gradient_has_no_optimizer_state():
    layer = 4 * (64 * 64 + 64)
    assert trace_step(mlp_step).optimizer == 2 * 2 * layer + 4 * 4
    assert trace_step(lambda: mlp_step(Mlp(used=False))).optimizer == 2 * layer + 2 * 4

    def frozen():
        model = Mlp()
        model.first.requires_grad_(False)
        return mlp_step(model)

    assert trace_step(frozen).optimizer == 2 * layer + 2 * 4


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("rows", [(8,), (4096,)])  # the peak is in the optimizer's step, or before it
def test_the_optimizers_state_counts_from_the_beginning_of_the_step(optimizer, rows, one_thread):
    found = trace_step(lambda: mlp_step(optimizer=optimizer, rows=rows))
    assert found.peak == pytest.approx(measured_peak(mlp_step(optimizer=optimizer, rows=rows)).peak, rel=0.001)


@pytest.mark.parametrize("rows", [(8,), (4096,)])
def test_an_optimizer_that_steps_in_backward_has_its_state_once_and_one_gradient_at_a_time(rows, one_thread):
    optimizer = functools.partial(in_backward, make=torch.optim.AdamW)
    found = trace_step(lambda: mlp_step(optimizer=optimizer, rows=rows))
    meter = measured_peak(mlp_step(optimizer=optimizer, rows=rows))
    assert found.peak == pytest.approx(meter.peak, rel=0.001)
    assert found.gradients <= 4 * 64 * 64


def test_gradients_that_accumulate_are_there_all_the_time():
    plain, accumulating = (trace_step(lambda a=a: mlp_step(accumulates=a, rows=(4096,))) for a in (False, True))
    weights = plain.parameters
    assert (plain.gradients, accumulating.gradients) < (weights, weights + 1)
    assert plain.peak < accumulating.peak <= plain.peak + weights
    assert accumulating.gradients == weights


def test_several_steps_cost_what_the_largest_does():
    def peak(*rows):
        cost = trace_step(lambda: mlp_step(rows=rows))
        return cost.peak - cost.other

    assert peak(64, 4096) == peak(4096, 64) == peak(4096)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("vit_demo", ["optimizer=set_adam"]),
        pytest.param("gpt2_demo", ["optimizer=set_adam"], marks=pytest.mark.slow),
        pytest.param("seq2seq_demo", ["trainer.precision=bf16-mixed", "optimizer=adamw"], marks=pytest.mark.slow),
    ],
)
def test_results_that_are_made_again_are_those_of_torch(model, more, monkeypatch):
    found = [trace_moments(lambda: make_step(model, "bdia", 3, 16, *more)) for _ in range(2)]
    monkeypatch.setattr(FakeResults, "run", lambda self, func, args, kwargs: func(*args, **kwargs))
    wanted = trace_moments(lambda: make_step(model, "bdia", 3, 16, *more))
    for moments in found:
        assert moments.operations == wanted.operations
        assert (moments.alive, moments.gradients, moments.totals) == (wanted.alive, wanted.gradients, wanted.totals)


def test_views_are_made_again_on_their_arguments_storage_and_changes_in_place_are_not_copied():
    with fake_tensors():
        for _ in range(2):
            x = torch.zeros(4, 6)
            assert x.t().shape == (6, 4) and x.t().stride() == (1, 6)
            assert x[1:].untyped_storage()._cdata == x.untyped_storage()._cdata and x[1:].storage_offset() == 6
            assert x.mul_(2) is x
            assert (x + 1).untyped_storage()._cdata != x.untyped_storage()._cdata
            half = x.to(torch.bfloat16)
            assert ((half + x).dtype, (half * x.sum()).dtype) == (torch.float32, torch.bfloat16)
            assert x.split(2)[1].storage_offset() == 12


def test_tracing_leaves_random_state_and_takes_no_memory():
    before = torch.get_rng_state()

    def huge():
        model = BdiaStack([nn.TransformerEncoderLayer(16_384, 32, batch_first=True) for _ in range(12)])
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        x = torch.randn(64, 2048, 16_384)

        def run():
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return TrainingStep(model, optimizer, [x], run)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert trace_step(huge).peak > 150e9
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_asks_for_a_value_is_one_clear_error():
    def step():
        made = mlp_step()
        return made._replace(run=lambda: made.model(made.batch[0]).sum().item())

    with pytest.raises(ValueError, match=r"asks for a tensor's value \(aten\._local_scalar_dense.*shapes only"):
        trace_step(step)


def test_values_of_ranges_can_be_read_while_building():
    with fake_tensors():
        assert [x.item() for x in torch.linspace(0, 1, 3)] == [0, 0.5, 1]


def test_the_example_runs():
    assert doctest.testmod(bdia.profiling.traced_step).failed == 0
    assert doctest.testmod(bdia.profiling.traced_step).attempted > 0
