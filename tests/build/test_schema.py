"""The schemas of the config groups: the same keys as the constructors, every value taken or refused in one line."""

import inspect
from importlib import import_module
from typing import get_type_hints

import pytest

from bdia import BdiaError, InvalidValueError
from bdia.build import check_run, compose
from bdia.build.keys import SUPPLIED
from bdia.build.schema import SCHEMAS, check_values, model, takes_any
from bdia.build.schema.fields import FLAG, either, list_of, maybe, number, one_of, wanted_of, whole
from bdia.build.signature import of_callable

# Arguments that code passes, not the config, and names of `*args` and `**kwargs`.
BY_CODE = {"params", "optimizer", "total_steps", "num_classes", "vocab_size", "blocks", "save_dir", "group", "config"}
BY_CODE |= {"callbacks", "logger", "default_root_dir", "plugins", "net", "scheduler", "seed", "tokenizer", "references"}
SIZES = {"dim", "num_heads", "attn_head_dim", "proj_drop", "img_size", "patch_size", "in_chans", "embed_dim"}
OF_TIMM = {"norm_layer", "flatten", "output_fmt", "strict_img_size", "dynamic_img_pad", "device", "dtype", "dim_out"}
BY_CODE |= {"prompts", "kinds", "arguments", "settings", "kwargs", "protocol", "callback"}


def built(target):
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("target", [target for target in SCHEMAS if "." in target])
def test_a_schema_has_the_keys_of_the_constructor(target):
    names, read = set(get_type_hints(SCHEMAS[target])), of_callable(built(target))
    known = set(inspect.signature(built(target)).parameters) | set(read.annotations)
    assert names <= known or takes_any(target), names - known
    parts = SIZES | OF_TIMM if target.startswith("timm.") or SCHEMAS[target] is model.Nothing else set()
    missing = known - names - BY_CODE - parts - (set(SUPPLIED.get("model", ())) if ".tasks." in target else set())
    allowed = {"name"} if target == "bdia.train.csv_logger" or target == "bdia.train.wandb_logger" else set()
    assert missing <= allowed, "keys that the constructor reads and the schema does not check"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (whole(1), "a whole number of at least 1"),
        (whole(0, 9), "a whole number of at least 0 and at most 9"),
        (number(0, 1, above=True, below=True), "a number above 0 and below 1"),
        (maybe(one_of("a", "b")), "one of a, b or null"),
        (
            either(FLAG, list_of(whole(0), 2, 2)),
            "true or false or a list of 2 values, each a whole number of at least 0",
        ),
    ],
)
def test_a_kind_says_what_it_wants(kind, text):
    assert wanted_of(kind) == text


ODD = ["x", "", True, None, -1, 0, 1.5, float("nan"), float("inf"), 10**18, [], [1], {}, {"a": 1}]


@pytest.mark.parametrize("target", SCHEMAS)
def test_every_odd_value_of_every_key_is_taken_or_refused_in_one_line(target):
    schema = SCHEMAS[target]
    keys = get_type_hints(schema)
    for key in keys:
        for value in ODD:
            try:
                check_values(target, {key: value}, "group")
            except InvalidValueError as error:
                text = str(error)
                assert "\n" not in text and ("wanted" in text or "is missing" in text)
                assert "another value" not in text, f"{target}.{key} does not say what it wants"


REFUSED = {
    "optimizer.float32_master=true": "optimizer.float32_master=true: a run's weights are float32 already",
    "optimizer.in_backward=3": "optimizer.in_backward=3: wanted true or false",
    "optimizer.in_backward=true trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches=2 with "
    "optimizer.in_backward=true: each batch's backward steps the weights",
    "optimizer.in_backward=true trainer.gradient_clip_val=1.0": "trainer.gradient_clip_val=1.0 with "
    "optimizer.in_backward=true: the norm of all gradients",
    "optimizer.in_backward=true trainer.precision=16-mixed": "trainer.precision=16-mixed with optimizer",
    "data.batch_size=0": "data.batch_size=0: wanted a whole number of at least 1",
    "data.batch_size=null": "data.batch_size=null: wanted a whole number",
    "data.val_fraction=1.0": "data.val_fraction=1.0: wanted a number of at least 0 and below 1",
    "data.seed=-5": "data.seed=-5: wanted a whole number",
    "seed=4294967296": "seed=4294967296: wanted a whole number",
    "seed=null": "seed=null",
    "optimizer.lr=nan": "optimizer.lr=nan: wanted a number",
    "optimizer.lr=inf": "optimizer.lr=inf: wanted a number",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]: wanted a list of 2 values",
    "model.net.heads=0": "model.net.heads=0",
    "model.net.dropout=1.0": "model.net.dropout=1.0: wanted a number of at least 0 and below 1",
    "model.net.depth=1000000000": "model.net.depth=1000000000: wanted a whole number of at least 1 and at most 4,096",
    "model.net.patch_size=7": "model.net.patch_size=7: wanted a divisor of model.net.img_size=32",
    "model=vit_base": "model.net.img_size=224: the images of data are 32 x 32",
    "model=vit_plain model.net.heads=7": "model.net.heads=7: wanted a divisor of model.net.width=512",
    "data=pydoc model=gpt2_demo model.net.heads=3": "model.net.heads=3: wanted a divisor of model.net.width=64",
    "data=pydoc model=gpt2_demo data.context=500": "data.context=500: wanted at most model.net.positions=128",
    "trainer.max_epochs=0": "trainer.max_epochs=0: nothing would be trained",
    "trainer.max_epochs=-1": "trainer.max_epochs=-1 with scheduler=cosine",
    "trainer.max_epochs=null": "trainer.max_epochs=null with scheduler=cosine",
    "trainer.max_epochs=-1 scheduler=constant": "trainer.max_epochs=-1: the training would not end",
    "+trainer.overfit_batches=2": "trainer.overfit_batches=2: wanted one of 0, 0.0",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run=true: wanted false",
    "+trainer.enable_checkpointing=false": "trainer.enable_checkpointing=false: wanted true or null",
    "+trainer.barebones=true": "trainer.barebones=true: wanted false",
    "trainer.strategy=ddp": "trainer.strategy=ddp with one device: wanted auto",
    "trainer.accelerator=tpu": "trainer.accelerator=tpu: wanted one of auto, cpu, gpu, cuda",
    "trainer.precision=16-true": "trainer.precision=16-true: wanted one of",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true: wanted one of 32-true, 32, bf16-mixed, 16-mixed, 32 "
    "(a stream in bf16 has too few bits for the grid",
    "trainer.strategy=tensor_parallel": "trainer.strategy=tensor_parallel: wanted one of auto, ddp, fsdp2, "
    "fsdp2_no_sync (this project's models keep queries, keys and values in one matrix",
    "trainer.strategy=context_parallel": "trainer.strategy=context_parallel: wanted one of auto, ddp, fsdp2, "
    "fsdp2_no_sync (no task here cuts a text over devices",
    "trainer.precision=16-mixed trainer.accelerator=cpu": "trainer.precision=16-mixed: float16 needs a CUDA GPU",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0: wanted a whole number of at least 1",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1: wanted a number above 0",
    "+trainer.limit_train_batches=0": "trainer.limit_train_batches=0",
    "~callbacks.history": "callbacks.history is missing",
    "~callbacks.checkpoint": "callbacks.checkpoint is missing",
    "~callbacks": "callbacks is missing",
    "~scheduler": "scheduler is missing",
    "~stack": "",
    "~model.net.stack": "model.net.stack is missing",
    "~optimizer": "optimizer is missing",
    "~trainer": "trainer is missing",
    "data=cifar10 ~data.name": "data.name is missing",
    "callbacks.checkpoint.filename=best": "callbacks.checkpoint.filename=best: wanted last",
    "data.seed=${nothing}": "data.seed: Interpolation key 'nothing' not found",
    "stack.eval_gamma=[1]": "stack.eval_gamma=[1]",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_setting_that_a_run_cannot_honour_is_refused_in_one_line_before_data_are_read(given):
    with pytest.raises(BdiaError) as refused:
        check_run(compose(given.split()))
    assert str(refused.value).startswith(REFUSED[given]) and "\n" not in str(refused.value)


TAKEN = [
    "trainer.max_epochs=-1 scheduler=constant +trainer.max_time=00:00:00:03",
    "trainer.max_epochs=null +trainer.max_steps=5",
    "trainer.max_epochs=-1 scheduler=constant "
    "+callbacks.early={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss}",
    "~callbacks.peak_memory ~callbacks.reversibility ~callbacks.step_timer",
    "~logger",
    "~logger.wandb",
    "+trainer.limit_val_batches=0 +trainer.limit_train_batches=0.5 trainer.gradient_clip_val=1",
    "optimizer=adamw trainer.gradient_clip_val=1.0 optimizer.fused=false",
    "data.val_fraction=0",
    "seed=4294967295",
]


@pytest.mark.parametrize("given", TAKEN)
def test_a_setting_that_works_is_taken(given):
    check_run(compose(given.split(" ")))
