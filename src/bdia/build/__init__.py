"""Compose a config, check it, and build objects from it: the one caller of `hydra.utils.instantiate`.

Only this room instantiates. `stack`, `optimizer` and `scheduler` are `_partial_`: model and task complete them.
Composing needs neither torch nor Lightning, so both are imported where an object is built.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import yaml
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdia import BdiaError, InvalidValueError, MissingFileError
from bdia.build.composing import CONFIGS, completed, compose
from bdia.build.quoting import quoted
from bdia.build.together import check_together
from bdia.build.trusted import check_trusted
from bdia.results.renamed import with_public_names

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from bdia.data.module import DataModule
    from bdia.tasks import Task

__all__ = [
    "CONFIGS",
    "build_callbacks",
    "build_data",
    "build_loggers",
    "build_net",
    "build_task",
    "build_trainer",
    "check_run",
    "close_loggers",
    "completed",
    "compose",
    "image_preprocessing",
    "kind_of_model",
    "load_run",
    "load_task",
    "quoted",
]

# Errors that mean a bug, not a refused argument.
ACCIDENTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError)
LARGEST_CONFIG = 2**20  # bytes; one of a run has a few thousand
UNKNOWN_DEPTH = 256  # blocks to try a stack on, where the model's number is in no key

# What Lightning says of normal runs here: a run's folder holds its config and checkpoint, short epochs are meant.
EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Total length of `list` across ranks is zero",  # no validation split: the paper's protocol
)


def _built(node: Any, **more: Any) -> Any:
    """Instantiate a node of the config; what a constructor refuses is one error of ours.

    Raises:
        BdiaError: our constructors' own, or a library's that refuses its arguments. Anything else is an accident.
    """
    try:
        return instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        found = _told(error)
    raise found  # here, so that its own cause stays


def _told(error: InstantiationException) -> BaseException:
    """Return what a constructor raised.

    Our constructor's error is returned as it is. A library's becomes an InvalidValueError that names the config key.
    """
    cause = error.__cause__
    found = re.search(r"Error (?:in call to target|locating target) '([^']+)'", str(error))
    target, (_, _, key) = found[1] if found else "", str(error).partition("full_key: ")
    ours = not target or target.startswith("bdia.")
    if isinstance(cause, BdiaError) or (cause is not None and (ours or isinstance(cause, ACCIDENTS))):
        return cause
    said = " ".join(str(cause or str(error).partition("\n")[0]).split())
    return InvalidValueError(f"{key.strip() or 'the config'}: {target} refuses it: {said}")


def check_run(cfg: DictConfig) -> None:
    """Refuse what can be seen to be wrong before data are read and before anything is written.

    Raises:
        ValueError: settings that do not go together; data and model of two kinds; what the stack refuses.
    """
    check_together(cfg)
    _check_stack(cfg)
    _check_fit(cfg)  # last: the classes of data and model import Lightning


def _check_stack(cfg: DictConfig) -> None:
    """Build the stack on blocks that do nothing: that needs torch, but neither Lightning nor the model."""
    from torch import nn

    class Block(nn.Module):
        def branches(self) -> tuple[nn.Module, nn.Module]:
            return self, self

    stack = cfg.copy().stack  # it still knows its config, for ${model.net.depth}
    for key, nothing in (("nested", []), ("tile", None)):  # they name submodules of the model's own blocks
        if key in stack:
            stack[key] = nothing
    depths = [cfg.model.net[key] for key in ("depth", "encoder_depth", "decoder_depth") if key in cfg.model.net]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself warns
        for depth in set(depths) or {UNKNOWN_DEPTH}:
            _built(stack)([Block() for _ in range(depth)])


def build_data(cfg: DictConfig) -> DataModule:
    """Build the data module; nothing is read yet."""
    return _built(cfg.data)


def build_net(cfg: DictConfig, net_arguments: Mapping[str, Any]) -> nn.Module:
    """Build the model on its stack alone; arguments and errors as for `build_task`."""
    return _built(cfg.model.net, **net_arguments)


def build_task(
    cfg: DictConfig, net_arguments: Mapping[str, Any], task_arguments: Mapping[str, Any] | None = None
) -> Task:
    """Build the model on its stack, with optimizer and schedule. Seed torch first: weights are drawn here.

    Args:
        cfg: the run's config; one without `data` is not asked whether they fit the model.
        net_arguments, task_arguments: what the data module's properties of these names say.
    Raises:
        BdiaError: what a constructor refuses, with the config key.
    """
    _check_fit(cfg)
    net = build_net(cfg, net_arguments)
    optimizer, scheduler = build_optimizer(cfg), _built(cfg.scheduler)
    settings = {key: value for key, value in cfg.model.items() if key != "net"}
    task = _built(settings, _partial_=True)  # objects stay out of Hydra's hands
    return task(net=net, optimizer=optimizer, scheduler=scheduler, seed=cfg.seed, **(task_arguments or {}))


def build_optimizer(cfg: DictConfig) -> Callable[..., Any]:
    """Return what makes the optimizer from parameters."""
    node = OmegaConf.to_container(cfg.optimizer, resolve=True)
    around = {"float32_master": "bdia.optim.Float32Master", "in_backward": "bdia.optim.in_backward"}
    asked = [target for key, target in around.items() if node.pop(key, False)]
    for target in asked:
        node = {"_target_": target, "_partial_": True, "make": node}
    return _built(node)


def kind_of_model(cfg: DictConfig) -> str:
    """Return what the model of a config learns from: "images", "documents", "sentence pairs" or "prompts"."""
    return _kind(cfg.model._target_)


def _kind(target: str) -> str:
    return get_class(target).kind


def _check_fit(cfg: DictConfig) -> None:
    if "data" not in cfg:
        return
    data, model = (_kind(part._target_) for part in (cfg.data, cfg.model))
    if data != model:
        raise InvalidValueError(
            f"data are {data} (data._target_={cfg.data._target_}), the model learns from {model} "
            f"(model._target_={cfg.model._target_}): choose both of one kind (data=cifar10 model=vit_paper, "
            "data=numbers model=seq2seq_demo, data=pydoc model=gpt2_demo, data=restaurants model=gpt2_prompts_demo)"
        )


def load_run(checkpoint: Path) -> Task:
    """Rebuild a trained task from what lies beside its checkpoint: config.yaml and, for text, tokenizer.json.

    Raises:
        FileNotFoundError: the checkpoint or its config is not there. ValueError: the tokenizer is another run's.
    """
    cfg = load_config(checkpoint)
    return load_task(cfg, checkpoint, *_saved_arguments(cfg, checkpoint.parent / "tokenizer.json"))


def load_config(checkpoint: Path) -> DictConfig:
    """Return the config of the run that a checkpoint lies beside.

    Raises:
        FileNotFoundError: the checkpoint or its config is not there. InvalidValueError: the config is not to be read.
    """
    from bdia.models.shares import in_shares  # here: it imports torch

    config = checkpoint.parent / "config.yaml"
    for path in (checkpoint, config):
        if not (path.is_file() or in_shares(path)):
            raise MissingFileError(f"checkpoint={checkpoint}: {path} was not found; wanted <run folder>/final.ckpt")
    cfg = _saved_config(config)
    if "weights" in cfg.model.net:
        cfg.model.net.weights = None  # where training started from; the checkpoint has what it led to
    return cfg


def _saved_config(path: Path) -> DictConfig:
    """Read the config beside a checkpoint, in today's names.

    Raises:
        InvalidValueError: it cannot be read, or names what a saved config may not.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise InvalidValueError(f"{path}: {path.stat().st_size} bytes, more than any config of a run")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InvalidValueError(
                f"{path}: a saved config has no aliases, which can grow without bound; it was changed"
            )
        found = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidValueError(f"{path} cannot be read as a config: {said}") from error
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise InvalidValueError(f"{path}: wanted the config of a run, with a model")
    config = with_public_names(found)
    check_trusted(config, str(path))
    return OmegaConf.create(config)


def load_task(
    cfg: DictConfig,
    checkpoint: Path,
    net_arguments: Mapping[str, Any],
    task_arguments: Mapping[str, Any] | None = None,
) -> Task:
    """Build a task in `eval()` with the weights of a checkpoint, which fit any stack with as many streams (RevViT's
    concatenated head is twice as wide).

    Raises:
        ValueError: the file is no checkpoint, or one of another model or tokenizer.
    """
    from bdia.models.gpt2_weights import read_weights  # here: it imports torch

    task = build_task(cfg, net_arguments, task_arguments)
    try:
        stored = read_weights(checkpoint, "checkpoint")
        task.on_load_checkpoint(stored)
        task.load_state_dict(stored["state_dict"])
    except (RuntimeError, UnpicklingError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise InvalidValueError(f"checkpoint={checkpoint} does not hold this model's weights: {error}") from error
    return task.eval()


def _saved_arguments(cfg: DictConfig, tokenizer_file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from bdia.data.text.tokenizer import load_tokenizer  # here: runs on images need no tokenizer
    from bdia.tasks import TextTask

    if not issubclass(get_class(cfg.model._target_), TextTask):
        return build_data(cfg).net_arguments, {}
    tokenizer = load_tokenizer(tokenizer_file)
    return {"vocab_size": tokenizer.get_vocab_size()}, {"tokenizer": tokenizer}


def image_preprocessing(checkpoint: Path) -> dict[str, Any]:
    """Return `mean` and `std` per channel and `label_names` of the images that a run was trained on; {} for text."""
    cfg = _saved_config(checkpoint.parent / "config.yaml")
    if _kind(cfg.data._target_) != "images":
        return {}
    data = build_data(cfg)
    return {"mean": list(data.mean), "std": list(data.std), "label_names": list(data.class_names)}


def build_callbacks(cfg: DictConfig, checkpoints: Path) -> list[Callback]:
    """Build the callbacks; the checkpoint callback gets its folder here."""
    callbacks = _built(cfg.callbacks)
    callbacks["checkpoint"] = callbacks["checkpoint"](dirpath=checkpoints)
    return list(callbacks.values())


def build_loggers(cfg: DictConfig, run_dir: Path, name: str, recorded: dict[str, Any]) -> list[Logger]:
    """Build the loggers; each is called with the run's folder, its name, its group and its config."""
    loggers = _built(cfg.get("logger")) or {}
    return [logger(save_dir=run_dir, name=name, group=cfg.name, config=recorded) for logger in loggers.values()]


def close_loggers(loggers: Sequence[Logger], outcome: str) -> None:
    """End the loggers of a run, and its W&B run: the next run of this process opens its own.

    Args:
        outcome: "success" or "failed".
    """
    for logger in loggers:
        logger.finalize(outcome)
    client = sys.modules.get("wandb")  # not imported where W&B is not asked for
    if client is not None and client.run is not None:
        client.finish(exit_code=int(outcome == "failed"))


def build_trainer(
    cfg: DictConfig,
    callbacks: list[Callback],
    loggers: list[Logger],
    run_dir: Path,
    plugins: Sequence[Any] = (),
    strategy: Any = None,
) -> Trainer:
    """Build the Lightning trainer; of its warnings only the expected ones are silenced."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    return _built(
        cfg.trainer, callbacks=callbacks, logger=loggers, default_root_dir=run_dir, plugins=[*plugins],
        **({} if strategy is None else {"strategy": strategy}),
    )  # fmt: skip
