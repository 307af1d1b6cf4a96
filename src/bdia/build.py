"""From a config to objects: the one caller of `hydra.utils.instantiate`. No config leaves this module.

`stack`, `optimizer` and `scheduler` are `_partial_`: the model and the task complete them.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from bdia.tasks import Task

# What Lightning says of normal runs here: a run's folder holds its config and checkpoint, short epochs are meant.
EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Total length of `list` across ranks is zero",  # no validation split: the paper's protocol
)


def build_data(cfg: DictConfig) -> LightningDataModule:
    """Build the data module; nothing is read yet."""
    return instantiate(cfg.data, _convert_="all")


def build_task(cfg: DictConfig, num_classes: int) -> Task:
    """Build the model on its stack, with optimizer and schedule. Seed torch first: weights are drawn here."""
    net = instantiate(cfg.model.net, num_classes=num_classes, _convert_="all")
    optimizer, scheduler = (instantiate(part, _convert_="all") for part in (cfg.optimizer, cfg.scheduler))
    return instantiate(
        {"_target_": cfg.model._target_}, net=net, optimizer=optimizer, scheduler=scheduler, seed=cfg.seed
    )


def load_task(cfg: DictConfig, num_classes: int, checkpoint: Path) -> Task:
    """Rebuild a trained task from the config saved beside its checkpoint. The weights fit any stack with as
    many streams (RevViT's concatenated head is twice as wide)."""
    task = build_task(cfg, num_classes)
    task.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    return task.eval()


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
