"""Config groups `optimizer`, `scheduler`, `trainer`, `callbacks` and `logger`."""

from typing import Required

from typing_extensions import TypedDict

from bdia.build.schema.fields import FILLED, FLAG, MANY, SHARE, SIZE, either, list_of, maybe, number, one_of, whole

RATE, BETAS = number(0, 1e3), list_of(SHARE, 2, 2)
BATCHES = maybe(either(whole(0), one_of(1.0)))  # a share can be less than one batch, which would show at the very end
SOME_BATCHES = maybe(either(SIZE, number(0, 1, above=True)))
TIME = maybe(FILLED)  # "00:02:00:00": days, hours, minutes, seconds


class Optimizer(TypedDict, total=False):
    """What every optimizer takes beside its own settings."""

    in_backward: FLAG
    float32_master: FLAG


class SetAdam(TypedDict, total=False):
    """SET-Adam."""

    lr: RATE
    betas: BETAS
    eps: number(0, 1, above=True)


class AdamW(TypedDict, total=False):
    """AdamW of torch."""

    lr: RATE
    betas: BETAS
    eps: number(0, 1, above=True)
    weight_decay: number(0, 1e3)
    amsgrad: FLAG
    maximize: one_of(False)
    foreach: maybe(FLAG)
    capturable: one_of(False)
    differentiable: one_of(False)
    fused: maybe(FLAG)


class Cosine(TypedDict, total=False):
    """Half a cosine after a warm-up."""

    warmup_steps: whole(0)


class Nothing(TypedDict, total=False):
    """No settings."""


class Trainer(TypedDict, total=False):
    """Lightning's Trainer. What this framework would ignore, or what breaks exactness or records, has one value."""

    accelerator: Required[one_of("auto", "cpu", "gpu", "cuda")]
    strategy: one_of("auto", "ddp", "fsdp2", "fsdp2_no_sync")
    devices: either(SIZE, FILLED, list_of(whole(0), 1))  # how many is checked in `check_run`
    num_nodes: SIZE
    precision: Required[one_of("32-true", "32", "bf16-mixed", "16-mixed", 32)]
    fast_dev_run: one_of(False)  # it writes no checkpoint; limit_train_batches is the way
    max_epochs: maybe(whole(-1))
    min_epochs: maybe(SIZE)
    max_steps: either(one_of(-1), SIZE)
    min_steps: maybe(SIZE)
    max_time: TIME
    limit_train_batches: SOME_BATCHES
    limit_val_batches: BATCHES
    limit_test_batches: BATCHES
    limit_predict_batches: BATCHES
    overfit_batches: one_of(0, 0.0)  # train and validation are other splits here; data.train_per_class is the way
    val_check_interval: SOME_BATCHES
    check_val_every_n_epoch: maybe(SIZE)
    num_sanity_val_steps: maybe(whole(-1))
    log_every_n_steps: maybe(SIZE)
    enable_checkpointing: maybe(one_of(True))
    enable_progress_bar: maybe(FLAG)
    enable_model_summary: maybe(FLAG)
    accumulate_grad_batches: SIZE
    gradient_clip_val: maybe(number(0, 1e6, above=True))
    gradient_clip_algorithm: maybe(one_of("norm", "value"))
    deterministic: maybe(either(FLAG, one_of("warn")))
    benchmark: maybe(FLAG)
    inference_mode: FLAG
    use_distributed_sampler: FLAG
    profiler: maybe(one_of("simple", "advanced"))
    detect_anomaly: FLAG
    barebones: one_of(False)
    sync_batchnorm: one_of(False)
    reload_dataloaders_every_n_epochs: one_of(0)
    enable_autolog_hparams: FLAG
    model_registry: one_of(None)


_OWN_MODELS = "this project's models keep queries, keys and values in one matrix; docs/trainers.md has it for others"
WHY = {  # values that someone may expect, and why there are none
    ("lightning.pytorch.Trainer", "strategy"): {
        "tensor_parallel": _OWN_MODELS,
        "context_parallel": "no task here cuts a text over devices; docs/trainers.md has it for a model of your own",
        "fsdp": "the strategy is called fsdp2",
    },
    ("lightning.pytorch.Trainer", "precision"): {
        "bf16-true": "a stream in bf16 has too few bits for the grid; bf16-mixed computes the layers in bf16",
        "16-true": "a stream in float16 has too few bits for the grid; bf16-mixed computes the layers in bf16",
    },
}


class AtBatch(TypedDict, total=False):
    """A measurement at one batch."""

    at_batch: whole(0)


class StepTimer(TypedDict, total=False):
    """Times of steps."""

    skip: whole(0)
    keep: SIZE


class Checkpoint(TypedDict, total=False):
    """The checkpoint from which the same command goes on."""

    filename: one_of("last")
    enable_version_counter: one_of(False)
    save_top_k: one_of(1)
    save_last: one_of(None, False)
    monitor: one_of(None)
    mode: one_of("min", "max")
    verbose: FLAG
    save_weights_only: one_of(False)
    save_on_exception: one_of(False)
    auto_insert_metric_name: FLAG
    every_n_epochs: maybe(whole(1, MANY))
    minutes: maybe(number(0, 1e5))
    sharded: FLAG
    every_n_train_steps: maybe(SIZE)
    train_time_interval: one_of(None)
    save_on_train_epoch_end: one_of(True)
    dirpath: one_of(None)


class Wandb(TypedDict, total=False):
    """Weights & Biases."""

    project: FILLED


SCHEMAS = {
    "an optimizer": Optimizer,
    "bdia.optim.SetAdam": SetAdam,
    "torch.optim.AdamW": AdamW,
    "bdia.optim.cosine": Cosine,
    "bdia.optim.constant": Nothing,
    "lightning.pytorch.Trainer": Trainer,
    "bdia.callbacks.History": Nothing,
    "bdia.callbacks.PeakMemory": AtBatch,
    "bdia.callbacks.ReversibilityCheck": AtBatch,
    "bdia.callbacks.StepTimer": StepTimer,
    "bdia.callbacks.Checkpoint": Checkpoint,
    "bdia.train.csv_logger": Nothing,
    "bdia.train.wandb_logger": Wandb,
}
