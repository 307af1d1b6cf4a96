"""Compose a config, and build objects from it: the one caller of `hydra.utils.instantiate`.

No config leaves this module. `stack`, `optimizer` and `scheduler` are `_partial_`: model and task complete them.
Composing needs neither torch nor Lightning, so both are imported where an object is built.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from bdia import InvalidValueError, MissingFileError
from bdia.results.renamed import with_public_names

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from bdia.data.module import DataModule
    from bdia.tasks import Task

_PACKAGED = Path(__file__).parent / "configs"  # in an installed package; a checkout has them at its top
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"

# What Lightning says of normal runs here: a run's folder holds its config and checkpoint, short epochs are meant.
EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Total length of `list` across ranks is zero",  # no validation split: the paper's protocol
)


def compose(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Return configs/train.yaml with Hydra overrides, such as "model=vit_paper" and "stack.keep=0".

    Args:
        return_hydra_config: with Hydra's own node, in which a sweep stands.
    Raises:
        hydra.errors.ConfigCompositionException, hydra.errors.MissingConfigException: no such group, file or key.
    """
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=return_hydra_config)


def build_data(cfg: DictConfig) -> DataModule:
    """Build the data module; nothing is read yet."""
    return instantiate(cfg.data, _convert_="all")


def build_task(
    cfg: DictConfig, net_arguments: Mapping[str, Any], task_arguments: Mapping[str, Any] | None = None
) -> Task:
    """Build the model on its stack, with optimizer and schedule. Seed torch first: weights are drawn here.

    Args:
        cfg: the run's config; one without `data` is not asked whether they fit the model.
        net_arguments, task_arguments: what the data module's properties of these names say.
    """
    _check_fit(cfg)
    net = instantiate(cfg.model.net, **net_arguments, _convert_="all")
    optimizer, scheduler = (instantiate(part, _convert_="all") for part in (cfg.optimizer, cfg.scheduler))
    settings = {key: value for key, value in cfg.model.items() if key != "net"}
    task = instantiate(settings, _partial_=True, _convert_="all")  # objects stay out of Hydra's hands
    return task(net=net, optimizer=optimizer, scheduler=scheduler, seed=cfg.seed, **(task_arguments or {}))


def kind_of_model(cfg: DictConfig) -> str:
    """Return what the model of a config learns from: "images", "documents", "sentence pairs" or "prompts"."""
    return get_class(cfg.model._target_).kind


def _check_fit(cfg: DictConfig) -> None:
    if "data" not in cfg:
        return
    data, task = (get_class(part._target_) for part in (cfg.data, cfg.model))
    if data.kind != task.kind:
        raise InvalidValueError(
            f"data are {data.kind} (data._target_={cfg.data._target_}), the model learns from {task.kind} "
            f"(model._target_={cfg.model._target_}): choose both of one kind (data=cifar10 model=vit_paper, "
            "data=numbers model=seq2seq_demo, data=pydoc model=gpt2_demo, data=restaurants model=gpt2_prompts_demo)"
        )


def load_run(checkpoint: Path) -> Task:
    """Rebuild a trained task from what lies beside its checkpoint: config.yaml and, for text, tokenizer.json.

    Raises:
        FileNotFoundError: the checkpoint or its config is not there. ValueError: the tokenizer is another run's.
    """
    config = checkpoint.parent / "config.yaml"
    for path in (checkpoint, config):
        if not path.is_file():
            raise MissingFileError(f"checkpoint={checkpoint}: {path} was not found; wanted <run folder>/final.ckpt")
    cfg = _saved_config(config)
    if "weights" in cfg.model.net:
        cfg.model.net.weights = None  # where training started from; the checkpoint has what it led to
    return load_task(cfg, checkpoint, *_saved_arguments(cfg, checkpoint.parent / "tokenizer.json"))


def _saved_config(path: Path) -> DictConfig:
    """Read the config beside a checkpoint, in today's names."""
    return OmegaConf.create(with_public_names(OmegaConf.to_container(OmegaConf.load(path), resolve=False)))


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
    import torch

    task = build_task(cfg, net_arguments, task_arguments)
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        task.on_load_checkpoint(stored)
        task.load_state_dict(stored["state_dict"])
    except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
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
    if get_class(cfg.data._target_).kind != "images":
        return {}
    data = build_data(cfg)
    return {"mean": list(data.mean), "std": list(data.std), "label_names": list(data.class_names)}


def build_callbacks(cfg: DictConfig, checkpoints: Path) -> list[Callback]:
    """Build the callbacks; the checkpoint callback gets its folder here."""
    callbacks = instantiate(cfg.callbacks, _convert_="all")
    callbacks["checkpoint"] = callbacks["checkpoint"](dirpath=checkpoints)
    return list(callbacks.values())


def build_loggers(cfg: DictConfig, run_dir: Path, name: str, recorded: dict[str, Any]) -> list[Logger]:
    """Build the loggers; each is called with the run's folder, its name, its group and its config."""
    loggers = instantiate(cfg.logger, _convert_="all") or {}
    return [logger(save_dir=run_dir, name=name, group=cfg.name, config=recorded) for logger in loggers.values()]


def build_trainer(cfg: DictConfig, callbacks: list[Callback], loggers: list[Logger], run_dir: Path) -> Trainer:
    """Build the Lightning trainer; of its warnings only the expected ones are silenced."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, default_root_dir=run_dir, _convert_="all")
