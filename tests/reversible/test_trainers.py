"""Trainers that people use train a converted model: docs/trainers.md is run, reversible and stored, and compared."""

import copy
import warnings
from pathlib import Path

import pytest
import torch

import bdia
from helpers.reversible_helpers import LiveStorages
from helpers.trainer_helpers import (
    DEPTH,
    LAST,
    MODES,
    assert_equal_weights,
    assert_trained_alike,
    batch,
    batches,
    equal,
    gpt2,
    headings,
    inputs_alive,
    llama,
    run_block,
    samples,
    step,
    tokens,
    weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_block_of_the_page_is_run_by_a_test():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(headings()) >= 10
    assert [heading for heading in headings() if f'"{heading}"' not in tests] == []


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


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True, "eval_strategy": "steps", "eval_steps": 1},
        pytest.param({"torch_compile": True, "torch_compile_backend": "aot_eager"}, marks=pytest.mark.slow),
    ],
    ids=["bf16 and evaluation", "torch_compile"],
)
def test_trainer_settings_lead_to_the_same_weights(settings, tmp_path):
    from transformers import Trainer, TrainingArguments

    def run(backward):
        torch._dynamo.reset()
        model = gpt2()
        report = bdia.convert(model, backward=backward)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to="none", disable_tqdm=True,
            use_cpu=True, save_strategy="no", **settings,
        )  # fmt: skip
        torch.manual_seed(0)
        Trainer(model, arguments, train_dataset=samples(), eval_dataset=samples(2)).train()
        return {"model": model, "report": report}

    assert_trained_alike(run("reversible"), run("stored"), weights(gpt2()))


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
        for inputs in batches():
            accelerator.backward(model(**inputs).loss)
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
    copied = copy.deepcopy(hooked)
    wanted = step(plain)
    assert equal(step(hooked), wanted) and equal(step(copied), wanted)
    assert report.freed_bytes["model.layers"] > 0
    assert inputs_alive(hooked, batch()) <= LAST and inputs_alive(copied, batch()) <= LAST


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


def lora_model(depth=DEPTH, first=1):
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=2, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], layers_to_transform=list(range(first, depth))
    )
    return get_peft_model(llama(depth), adapters)


def held_by_forward(model):
    """Bytes that live between forward and backward, and the gradients of the adapters."""
    ids = tokens(2)
    torch.manual_seed(0)
    model.zero_grad()
    with LiveStorages(model, ids) as live:
        loss = model(input_ids=ids, labels=ids).loss
        held = live.census()
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
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if enabled == "before":
                model.enable_input_require_grads()
            report = bdia.convert(model)
            if enabled == "after":
                model.enable_input_require_grads()
            if enabled == "on the base model":
                model.get_base_model().enable_input_require_grads()
            if enabled in ("after", "on the base model"):
                step(model)  # convert did not see it: it is found in the first step, and switched off for the next
        assert any("input gradients" in str(each.message) for each in said) == (enabled != "never")
        found, gradients = held_by_forward(model)
        held.append(found)
        assert equal(gradients, held_by_forward(stored)[1])
        assert min(report.freed_bytes.values()) > 0
    assert held[0] == held[1]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_base_model_may_be_converted_before_it_gets_adapters_and_stays_converted_when_they_are_merged():
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    base, plain = llama(), get_peft_model(llama(), copy.deepcopy(adapters))
    report = bdia.convert(base)
    model = get_peft_model(base, adapters)
    stored = copy.deepcopy(model)
    bdia.revert(stored)
    bdia.convert(stored, backward="stored")
    assert equal(step(model), step(stored)) and report.freed_bytes["model.layers"] > 0
    plain.load_state_dict(model.state_dict())
    merged, wanted = model.merge_and_unload(), plain.merge_and_unload()
    assert inputs_alive(merged.requires_grad_(True), batch()) <= LAST
    ids = tokens(2)
    assert torch.equal(merged.eval()(ids).logits, wanted.eval()(ids).logits)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_copy_says_that_its_frozen_layers_are_taped():
    model = lora_model()
    bdia.convert(model)
    copied = copy.deepcopy(model)
    copied.enable_input_require_grads()
    with pytest.warns(UserWarning, match="disable_input_require_grads"):
        step(copied)


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
