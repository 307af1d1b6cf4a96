"""Trainers that people use train a converted model: docs/trainers.md is run, reversible and stored, and compared."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from reversible_helpers import LiveStorages, loss_of, make_blocks, make_tokens
from torch import nn
from trainer_helpers import (
    DEPTH,
    assert_equal_weights,
    assert_trained_alike,
    batches,
    gpt2,
    llama,
    run_block,
    samples,
    tokens,
    weights,
)

import bdia

MODES = ("reversible", "stored")
pytestmark = pytest.mark.usefixtures("one_thread")


def step(model, seed=0, **inputs):
    """One forward and backward; the gradients."""
    ids = tokens(2)
    torch.manual_seed(seed)
    model(input_ids=ids, labels=ids, **inputs).loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def equal(found, wanted):
    """Whether all tensors are equal bit for bit, and there are any."""
    return bool(found) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# --- plain PyTorch ---


@pytest.mark.parametrize("make", [gpt2, llama])
def test_plain_pytorch_with_accumulation_and_clipping_and_the_saved_model_needs_no_bdia(make, tmp_path):
    found, wanted = (
        run_block("Plain PyTorch", mode, model=make(), batches=batches(), folder=tmp_path / mode) for mode in MODES
    )
    assert_trained_alike(found, wanted, weights(make()))
    loaded = type(found["model"]).from_pretrained(tmp_path / "reversible").eval()
    assert_equal_weights(weights(loaded), weights(found["model"]))
    ids = tokens(2)
    assert torch.equal(loaded(ids).logits, found["model"].eval()(ids).logits)


# --- Hugging Face Trainer ---


def train(folder, mode, model=None):
    names = {"model": gpt2() if model is None else model, "dataset": samples(16), "folder": str(folder)}
    return run_block("Hugging Face Trainer", mode, **names)


def test_trainer_trains_saves_and_resumes_to_the_same_weights(tmp_path):
    from transformers import GPT2LMHeadModel

    found, wanted = (train(tmp_path / mode, mode) for mode in MODES)
    assert_trained_alike(found, wanted, weights(gpt2()))
    straight = weights(found["model"])
    assert_equal_weights(weights(GPT2LMHeadModel.from_pretrained(tmp_path / "reversible")), straight)

    resumed = gpt2(seed=1)
    report = bdia.convert(resumed)
    trainer = type(found["trainer"])(resumed, found["arguments"], train_dataset=samples(16))
    trainer.train(resume_from_checkpoint=str(tmp_path / "reversible" / "checkpoint-2"))
    assert trainer.state.global_step == 4
    assert_equal_weights(weights(resumed), straight)
    assert report.freed_bytes["transformer.h"] > 0


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_a_trainer_that_switches_checkpointing_on_is_refused_by_name(name, tmp_path):
    from transformers import Trainer, TrainingArguments

    if not hasattr(TrainingArguments, name):
        pytest.skip("another version of transformers")
    model = gpt2()
    bdia.convert(model)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, **{name: True})
    with pytest.raises(RuntimeError, match="checkpoint"):
        Trainer(model, arguments, train_dataset=samples()).train()


@pytest.mark.parametrize("enable", ["gradient_checkpointing_enable", "activation_checkpointing_enable"])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_checkpointing_of_the_model_is_switched_off_by_convert_and_refused_afterwards(make, enable):
    wanted = make()
    bdia.convert(wanted)
    before = make()
    if not hasattr(before, enable):
        pytest.skip("another version of transformers")
    getattr(before, enable)()
    with pytest.warns(UserWarning, match="switched off"):
        report = bdia.convert(before)
    assert equal(step(before), step(wanted)) and min(report.freed_bytes.values()) > 0
    getattr(before, enable)()
    with pytest.raises(RuntimeError, match="checkpoint"):
        step(before)


# --- Accelerate ---


def test_accelerate_trains_to_the_same_weights(tmp_path):
    found, wanted = (
        run_block("Accelerate", mode, model=gpt2(), batches=batches(), folder=tmp_path / mode) for mode in MODES
    )
    assert_trained_alike(found, wanted, weights(gpt2()))


@pytest.mark.parametrize("converts", ["before", "after"])
def test_accelerate_in_bfloat16_trains_to_the_same_weights_whether_converted_before_or_after_prepare(converts):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    def run(backward, converts):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision="bf16", cpu=True)
        model = gpt2()
        report = bdia.convert(model, backward=backward) if converts == "before" else None
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        report = report or bdia.convert(model, backward=backward)
        torch.manual_seed(0)
        for batch in batches():
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        AcceleratorState._reset_state(reset_partial_state=True)
        return weights(accelerator.unwrap_model(model)), report

    found, report = run("reversible", converts)
    wanted, _ = run("stored", "before")
    assert_equal_weights(found, wanted)
    assert min(report.freed_bytes.values()) > 0


def put_hooks_on_layers(model):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for layer in model.model.layers:
        add_hook_to_module(layer, AlignDevicesHook("cpu"))


def dispatch(model):
    from accelerate import dispatch_model

    dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


def offload(model):
    from accelerate import cpu_offload

    cpu_offload(model, execution_device="cpu")


@pytest.mark.parametrize("hook", [put_hooks_on_layers, dispatch])
@pytest.mark.parametrize("converts", ["before", "after"])
def test_hooks_of_accelerate_leave_a_converted_model_converted(hook, converts):
    plain, hooked = llama(), llama()
    bdia.convert(plain)
    if converts == "after":
        hook(hooked)
    report = bdia.convert(hooked)
    if converts == "before":
        hook(hooked)
    assert equal(step(hooked), step(plain))
    assert report.freed_bytes["model.layers"] > 0
    copied = copy.deepcopy(hooked)
    copied.zero_grad()
    assert equal(step(copied), step(plain)) is False  # `plain` has two steps of gradients by now
    plain.zero_grad()
    assert equal(step(plain), [p.grad for p in copied.parameters()])


@pytest.mark.parametrize("converts", ["before", "after"])
def test_a_model_that_is_offloaded_to_the_cpu_trains_through_its_conversion(converts):
    plain, hooked = llama(), llama()
    bdia.convert(plain)
    if converts == "after":
        offload(hooked)
    report = bdia.convert(hooked)
    if converts == "before":
        offload(hooked)
    ids = tokens(2)
    losses = []
    for model in (hooked, plain):
        torch.manual_seed(0)
        losses.append(model(input_ids=ids, labels=ids).loss)
    assert torch.equal(*losses)
    losses[0].backward()
    assert report.freed_bytes["model.layers"] > 0


def test_hooks_that_are_put_on_after_conversion_hide_it_neither_from_convert_nor_from_revert():
    wanted, model = llama(), llama()
    bdia.convert(model)
    put_hooks_on_layers(model)
    with pytest.raises(ValueError, match="converted already"):
        bdia.convert(model)
    assert bdia.revert(model) == DEPTH
    assert equal(step(model), step(wanted))  # the ordinary model's
    report = bdia.convert(model)
    bdia.convert(wanted)
    model.zero_grad(), wanted.zero_grad()
    assert equal(step(model), step(wanted))
    assert report.freed_bytes["model.layers"] > 0


# --- peft ---


def lora_model(depth=DEPTH, first=2):
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=2, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], layers_to_transform=list(range(first, depth))
    )
    return get_peft_model(llama(depth), adapters)


def held_by_forward(model):
    """Bytes that live between forward and backward, and the gradients of the adapters."""
    ids = tokens(2)
    torch.manual_seed(0)
    with LiveStorages(model, ids) as live:
        loss = model(input_ids=ids, labels=ids).loss
        held = live.census()
    model.zero_grad()
    loss.backward()
    return held, [p.grad.clone() for p in model.parameters() if p.requires_grad]


def test_lora_trains_to_the_same_weights(tmp_path):
    found, wanted = (
        run_block("LoRA with peft", mode, model=llama(), batches=batches(), folder=tmp_path / mode) for mode in MODES
    )
    assert_trained_alike(found, wanted, weights(lora_model()))
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(llama(), tmp_path / "reversible").eval()
    ids = tokens(2)
    assert torch.equal(loaded(ids).logits, found["model"].eval()(ids).logits)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 with transformers 5.23
@pytest.mark.parametrize("enabled", ["never", "before", "after", "on the base model"])
def test_frozen_layers_below_the_first_adapter_hold_nothing_whatever_the_depth(enabled):
    held = []
    for depth in (3, 6):
        model, stored = lora_model(depth, depth - 2), lora_model(depth, depth - 2)
        bdia.convert(stored, backward="stored")
        if enabled == "before":
            model.enable_input_require_grads()
        report = bdia.convert(model)
        if enabled == "after":
            model.enable_input_require_grads()
        if enabled == "on the base model":
            model.get_base_model().enable_input_require_grads()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step(model)  # a hook that is put on after conversion is found, and switched off, in the first step
        assert any("input gradients" in str(each.message) for each in said) == (enabled != "never")
        model.zero_grad()
        bytes_, gradients = held_by_forward(model)
        held.append(bytes_)
        assert equal(gradients, held_by_forward(stored)[1])
        assert min(report.freed_bytes.values()) > 0
    assert held[0] == held[1]


# --- Lightning ---


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on workers and logging
def test_lightning_trains_saves_and_resumes_to_the_same_weights(tmp_path):
    found, wanted = (
        run_block("Lightning", mode, model=gpt2(), batches=batches(), folder=tmp_path / mode) for mode in MODES
    )
    assert_trained_alike(found, wanted, weights(gpt2()))
    (saved,) = (tmp_path / "reversible").rglob("*.ckpt")
    loaded = found["Decoder"].load_from_checkpoint(saved, model=gpt2(seed=1), weights_only=False)
    assert_equal_weights(weights(loaded.model), weights(found["model"]))


# --- torch.compile ---


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


def compiled_step(how, backward, backend, depth=10):
    """Gradients of one compiled step, its backend, the report. `how` says what is compiled, and when."""
    torch._dynamo.reset()
    model, counted = Blocks(depth), CountRuns(backend)
    if how == "layers before":
        for layer in model.layers:
            layer.compile(backend=counted)
    report = bdia.convert(model, backward=backward)
    if how == "layers after":
        for layer in model.layers:
            layer.compile(backend=counted)
    run = torch.compile(model, backend=counted) if how == "model" else model
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
@pytest.mark.parametrize("how", ["layers before", "layers after", "model"])
def test_layers_compiled_by_inductor_have_the_gradients_of_stored(how):
    found, counted, report = compiled_step(how, "reversible", "inductor")
    assert counted.runs == 20 and report.freed_bytes["layers"] > 0
    assert equal(found, compiled_step(how, "stored", "inductor")[0])


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
    for layer in model.layers:
        layer.compile(backend=counted)
    model(make_tokens())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert bdia.revert(copied) == bdia.revert(model) == 2
    torch._dynamo.reset()
    counted.runs = 0
    model(make_tokens())
    assert counted.runs == 2
    model.eval(), copied.eval()
    assert torch.equal(model(make_tokens()), copied(make_tokens()))


# --- mixed precision ---


def test_a_gradient_scaler_trains_to_the_same_weights():
    names = {"device": "cpu", "batches": batches()}
    found, wanted = (run_block("Mixed precision and GradScaler", mode, model=gpt2(), **names) for mode in MODES)
    assert_trained_alike(found, wanted, weights(gpt2()))


def test_a_gradient_scaler_skips_a_step_that_overflows():
    model = gpt2()
    report = bdia.convert(model)
    start, ids = weights(model), tokens(2)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**100)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(input_ids=ids, labels=ids).loss
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**99 and report.freed_bytes["transformer.h"] > 0
    assert_equal_weights(weights(model), start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_with_a_scaled_loss_have_the_gradients_of_stored(dtype):
    def run(backward):
        model = gpt2().to(dtype)
        report = bdia.convert(model, backward=backward)
        ids = tokens(2)
        torch.manual_seed(0)
        (model(input_ids=ids, labels=ids).loss * 128).backward()
        return [p.grad for p in model.parameters()], report

    found, report = run("reversible")
    assert equal(found, run("stored")[0]) and all(g.dtype == dtype and g.isfinite().all() for g in found)
    assert report.freed_bytes["transformer.h"] > 0


# --- copies ---


def test_an_average_of_weights_is_a_converted_model_that_generates_as_the_plain_one():
    names = {"batches": batches(), "prompt": tokens(2)[:, :3]}
    found, wanted = (run_block("Copies, averages, generation", mode, model=gpt2(), **names) for mode in MODES)
    assert_trained_alike(found, wanted, weights(gpt2()))
    plain = gpt2()
    plain.load_state_dict(found["average"].module.state_dict())
    generated = plain.eval().generate(names["prompt"], max_new_tokens=4, do_sample=False)
    assert torch.equal(found["tokens"], generated)
    assert bdia.revert(found["average"].module) == DEPTH


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_and_loaded])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_copy_of_a_converted_model_trains_reversibly_and_by_itself(make, copied):
    model = make()
    keys = list(model.state_dict())
    bdia.convert(model)
    step(model)  # also after a training step
    model.zero_grad()
    other = copied(model)
    assert list(model.state_dict()) == list(other.state_dict()) == keys
    found = step(other)
    assert all(p.grad is None for p in model.parameters())
    assert equal(found, step(model))
    ids = tokens(2)
    torch.manual_seed(0)
    with LiveStorages(other, ids) as live:
        loss = other(input_ids=ids, labels=ids).loss
        held = live.total()
    assert loss.isfinite()
    assert bdia.revert(other) == DEPTH  # and the original stays converted
    with LiveStorages(other, ids) as live:
        loss = other(input_ids=ids, labels=ids).loss
        assert held < live.total() / 2
    torch.manual_seed(0)
    model.zero_grad()
    assert equal(step(model), found)


# --- generation ---


def test_generation_in_training_mode_without_gradients_runs_and_training_goes_on_afterwards():
    plain, model = llama(), llama()
    report = bdia.convert(model)
    ids = tokens(2)[:, :3]
    wanted = plain.eval().generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.eval().generate(ids, max_new_tokens=4, do_sample=False), wanted)
    model.train()
    with torch.no_grad():
        assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (2, 7)
    other = llama()
    bdia.convert(other, backward="stored")
    assert equal(step(model), step(other)) and report.freed_bytes["model.layers"] > 0
