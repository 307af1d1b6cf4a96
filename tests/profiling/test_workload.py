"""Workload: the step a training run takes, on made-up batches of every kind."""

import pytest
import torch

from bdia.build import compose
from bdia.profiling.traced_step import fake_tensors
from bdia.profiling.workload import build_workload
from bdia.reversible import BdiaStack
from bdia.reversible.stacks import registry

MODELS = {"vit_demo": {}, "gpt2_demo": {"tokens": 8}, "seq2seq_demo": {"tokens": 6}}
STACKS = tuple(row.name for row in registry.STACKS)


def workload(model, *overrides, batch=2, **options):
    return build_workload(compose([f"model={model}", *overrides]), batch, **(MODELS[model] | options))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_changes_every_parameter_and_leaves_no_gradient(model, stack, one_thread):
    work = workload(model, f"stack={stack}")
    assert work.task.training
    before = [p.detach().clone() for p in work.task.parameters()]
    work.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, work.task.parameters(), strict=True))
    assert all(p.grad is None for p in work.task.parameters())


@pytest.mark.parametrize(
    ("model", "shapes", "size"),
    [
        ("vit_demo", [(2, 3, 32, 32), (2,)], 2),
        ("gpt2_demo", [(2, 9)], 16),
        ("seq2seq_demo", [(2, 6), (2, 7), (2,)], 12),
    ],
)
def test_batch_and_size_are_those_of_the_task(model, shapes, size):
    work = workload(model)
    assert [tuple(tensor.shape) for tensor in work.batch] == shapes
    assert work.size == size


def test_a_text_is_as_long_as_the_models_positions_unless_told():
    assert workload("gpt2_demo", tokens=None).batch[0].shape == (2, 128 + 1)


def test_image_sides_classes_and_vocabularies_are_those_asked_for():
    images, labels = workload("vit_demo", "model.net.img_size=64", batch=300, num_classes=2).batch
    assert images.shape == (300, 3, 64, 64)
    assert sorted(set(labels.tolist())) == [0, 1]
    work = workload("gpt2_demo", vocab_size=11)
    assert work.task.net.tokens.num_embeddings == 11
    assert workload("gpt2_demo").task.net.tokens.num_embeddings == 50_257
    assert workload("seq2seq_demo").task.net.target_tokens.num_embeddings == 8_000


def test_the_stack_is_the_configs():
    blocks = workload("vit_demo", "stack=bdia", "stack.keep=2", "model.net.depth=3").task.net.blocks
    assert (type(blocks), len(blocks), blocks.keep) == (BdiaStack, 3, 2)


def test_bf16_mixed_computes_blocks_in_bfloat16_and_keeps_float32_weights(one_thread):
    work = workload("vit_demo", "trainer.precision=bf16-mixed")
    seen = []
    work.task.net.blocks[0].mlp.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    work.step()
    assert torch.bfloat16 in seen
    assert {p.dtype for p in work.task.parameters()} == {torch.float32}


def test_two_workloads_of_one_config_take_the_same_step(one_thread):
    first, second = (workload("vit_demo", "stack=bdia", "model.net.dropout=0.0") for _ in range(2))
    for work in (first, second):
        torch.manual_seed(5)
        work.step()
    assert all(torch.equal(a, b) for a, b in zip(first.task.parameters(), second.task.parameters(), strict=True))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("model", [*MODELS, "timm_vit"])
def test_every_model_steps_on_every_stack_without_data(model, stack):
    merge = ["stack.merge=mean"] if (model, stack) == ("timm_vit", "revvit") else []
    depths = {"seq2seq_demo": ["model.net.encoder_depth=3", "model.net.decoder_depth=3"]}
    shallow = depths.get(model, ["++model.net.depth=3"])
    cfg = compose([f"model={model}", f"stack={stack}", *merge, *shallow, "optimizer=adamw"])
    with fake_tensors():
        build_workload(cfg, 2, **MODELS.get(model, {})).step()


@pytest.mark.parametrize(
    ("model", "overrides", "options", "message"),
    [
        ("vit_demo", [], {"batch": 0}, r"batch=0: wanted at least 1; set batch"),
        ("vit_demo", [], {"tokens": 5}, r"tokens=5: .*VisionTransformer reads images, set model\.net\.img_size"),
        ("gpt2_demo", [], {"tokens": 129}, r"tokens=129: wanted 1 to 128.*model\.net\.positions"),
        ("vit_demo", ["trainer.precision=16-mixed"], {}, r"precision=16-mixed: .* set trainer\.precision"),
    ],
)
def test_what_cannot_be_built_names_the_value_and_the_key(model, overrides, options, message):
    with pytest.raises(ValueError, match=message):
        workload(model, *overrides, **options)
