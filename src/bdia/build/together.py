"""What settings of several nodes say together: refused before data are read and before anything is written."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from bdia import InvalidValueError, UnsupportedError
from bdia.build.keys import PARTS, plain_values
from bdia.build.schema import shown

NEEDED = {  # callbacks without which a run leaves nothing
    "history": "a record holds what it gathers",
    "checkpoint": "an interrupted run goes on from what it writes; callbacks.checkpoint.every_n_epochs says how often",
}


def check_together(cfg: DictConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        InvalidValueError: names the keys, their values and what was wanted.
        UnsupportedError: the machine lacks what was asked for.
    """
    config = plain_values(cfg)
    for part in (*PARTS, "paths", "seed", "name", "callbacks"):
        if config.get(part) is None:
            raise InvalidValueError(f"{part} is missing: a run needs it; leave ~{part} or {part}=null out")
    for name, why in NEEDED.items():
        if not config["callbacks"].get(name):
            raise InvalidValueError(f"callbacks.{name} is missing: {why}; leave ~callbacks.{name} out")
    _check_length(config)
    _check_devices(config)
    _check_in_backward(config)
    _check_master(config)
    _check_machine(config)
    _check_model(config)


def _check_length(config: Mapping[str, Any]) -> None:
    """A training ends, and a schedule that needs its length knows it."""
    trainer, scheduler = config["trainer"], str(config["scheduler"].get("_target_"))
    epochs, steps, time = trainer.get("max_epochs"), trainer.get("max_steps", -1), trainer.get("max_time")
    if epochs == 0:
        raise InvalidValueError(
            "trainer.max_epochs=0: nothing would be trained; wanted at least 1; set trainer.max_epochs"
        )
    if epochs in (None, -1) and steps == -1:
        stops = any("EarlyStopping" in str(node.get("_target_")) for node in config["callbacks"].values() if node)
        if scheduler == "bdia.optim.cosine":
            raise InvalidValueError(
                f"trainer.max_epochs={shown(epochs)} with scheduler=cosine: it falls to zero at the training's end, "
                "which is not known; set trainer.max_epochs or trainer.max_steps, or scheduler=constant"
            )
        if not (time or stops):
            raise InvalidValueError(
                f"trainer.max_epochs={shown(epochs)}: the training would not end; set trainer.max_epochs, "
                "trainer.max_steps, trainer.max_time or a callback that stops it"
            )
    least, most = trainer.get("min_epochs"), epochs
    if least and most and 0 < most < least:
        raise InvalidValueError(f"trainer.min_epochs={least}: wanted at most trainer.max_epochs={most}")


def device_count(trainer: Mapping[str, Any]) -> int:
    """Return the number of devices of a node.

    Raises:
        InvalidValueError: `trainer.devices` does not say it.
    """
    devices = trainer.get("devices", 1)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if not str(devices).isdecimal() or int(devices) < 1:
        raise InvalidValueError(
            f"trainer.devices={devices}: a record says how many trained; wanted a number of at least 1, or a list of "
            "GPUs; set trainer.devices"
        )
    return int(devices)


def _check_devices(config: Mapping[str, Any]) -> None:
    """Several devices have a strategy, and nothing that knows one device alone."""
    trainer, stack = config["trainer"], config["stack"]
    count, strategy = device_count(trainer) * trainer.get("num_nodes", 1), trainer.get("strategy", "auto")
    if config["callbacks"]["checkpoint"].get("sharded") and not strategy.startswith("fsdp2"):
        raise InvalidValueError(
            f"callbacks.checkpoint.sharded=true with trainer.strategy={strategy}: no process holds a share of the "
            "model; set callbacks.checkpoint.sharded=false, or trainer.strategy=fsdp2 with several devices"
        )
    if count == 1:
        if strategy != "auto":
            raise InvalidValueError(
                f"trainer.strategy={strategy} with one device: wanted auto; set trainer.strategy, or trainer.devices"
            )
        return
    said = f"with {count} devices"
    if strategy == "auto":
        raise InvalidValueError(
            f"trainer.strategy=auto {said}: wanted ddp (every device has all weights) or fsdp2 (each weight is shared "
            "out over the devices); set trainer.strategy, or trainer.devices=1 and one job a device"
        )
    for key, is_refused, why in (
        (
            "trainer.strategy=fsdp2_no_sync",
            strategy == "fsdp2_no_sync" and trainer.get("accumulate_grad_batches", 1) == 1,
            "it holds back what accumulates; set trainer.accumulate_grad_batches above 1, or trainer.strategy=fsdp2",
        ),
        ("stack.bits=auto", stack.get("bits") == "auto", "each device would choose its own grid; set a number"),
        ("stack.memory_budget", stack.get("memory_budget") is not None, "it counts one device; set stack.keep"),
        (
            "optimizer.in_backward=true",
            config["optimizer"].get("in_backward"),
            "a gradient is stepped before the devices have exchanged it; set optimizer.in_backward=false",
        ),
        (
            "weights.pretrain",
            (config.get("weights") or {}).get("pretrain"),
            "train it first on one device, then set weights.from to its folder and weights.pretrain=null",
        ),
        (
            "trainer.precision=16-mixed",
            strategy != "ddp" and trainer.get("precision") == "16-mixed",
            "the loss scale is not shared out; set trainer.precision=bf16-mixed",
        ),
    ):
        if is_refused:
            raise InvalidValueError(f"{key} {said}: {why}")


def _check_in_backward(config: Mapping[str, Any]) -> None:
    """A parameter that is stepped during backward needs nothing that only the end of backward knows."""
    if not config["optimizer"].get("in_backward"):
        return
    trainer = config["trainer"]
    batches, clips = trainer.get("accumulate_grad_batches", 1), trainer.get("gradient_clip_val")
    for key, is_refused, why, instead in (
        ("accumulate_grad_batches", batches != 1, "each batch's backward steps the weights and drops the gradients", 1),
        ("gradient_clip_val", clips is not None, "the norm of all gradients is known when none is left", None),
        (
            "precision",
            trainer.get("precision") == "16-mixed",
            "whether float16 overflowed is known at the end",
            "bf16-mixed",
        ),
    ):
        if is_refused:
            raise InvalidValueError(
                f"trainer.{key}={shown(trainer[key])} with optimizer.in_backward=true: {why}; set "
                f"trainer.{key}={shown(instead)} or optimizer.in_backward=false"
            )


def _check_master(config: Mapping[str, Any]) -> None:
    """A run's weights are float32 in every precision that it takes."""
    if config["optimizer"].get("float32_master"):
        raise InvalidValueError(
            "optimizer.float32_master=true: a run's weights are float32 already, also with "
            "trainer.precision=bf16-mixed; it is for bdia plan model=hf and for models of your own; set "
            "optimizer.float32_master=false"
        )


def _check_machine(config: Mapping[str, Any]) -> None:
    """A GPU that is asked for is there, and float16 has one."""
    import torch  # here: composing needs none

    trainer = config["trainer"]
    asked, precision, has_gpu = trainer.get("accelerator", "auto"), trainer.get("precision"), torch.cuda.is_available()
    if asked in ("gpu", "cuda") and not has_gpu:
        raise UnsupportedError(
            f"trainer.accelerator={asked}: this machine has no CUDA GPU; set trainer.accelerator=cpu"
        )
    if precision == "16-mixed" and (asked == "cpu" or not has_gpu):
        raise UnsupportedError(
            "trainer.precision=16-mixed: float16 needs a CUDA GPU; set trainer.precision=bf16-mixed or 32-true"
        )
    clips, fused = trainer.get("gradient_clip_val"), config["optimizer"].get("fused")
    if precision == "16-mixed" and clips and fused:
        raise InvalidValueError(
            f"trainer.gradient_clip_val={clips} with optimizer.fused=true and trainer.precision=16-mixed: a fused step "
            "unscales gradients itself, after clipping; set optimizer.fused=false or trainer.precision=bf16-mixed"
        )


def _check_model(config: Mapping[str, Any]) -> None:
    """Sizes of the model fit each other, and the data."""
    net, data = config["model"].get("net") or {}, config["data"]
    size, patch = net.get("img_size"), net.get("patch_size")
    if size is not None and patch is not None and size % patch:
        raise InvalidValueError(f"model.net.patch_size={patch}: wanted a divisor of model.net.img_size={size}")
    ours = data.get("_target_") in ("bdia.data.CifarDataModule", "bdia.data.DigitsDataModule")
    if ours and size is not None and size != 32:
        raise InvalidValueError(f"model.net.img_size={size}: the images of data are 32 x 32; set model.net.img_size=32")
    width, heads = net.get("width"), net.get("heads")
    per_head = "head_dim" in net and "timm" not in str((net.get("attention") or {}).get("_target_"))
    if width and heads and not per_head and width % heads:
        raise InvalidValueError(f"model.net.heads={heads}: wanted a divisor of model.net.width={width}")
    context, positions = data.get("context"), net.get("positions")
    if context and positions and context > positions:
        raise InvalidValueError(
            f"data.context={context}: wanted at most model.net.positions={positions}, the longest the model sees"
        )
