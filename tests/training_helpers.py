"""A job so small that it trains in a second, and comparisons of what two jobs left behind."""

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from bdia.train import CONFIGS

# 40 training images in 5 batches; a ViT of width 16 and depth 3, so that BDIA keeps side information.
TINY = (
    "data.train_per_class=4",
    "data.val_fraction=0.01",
    "data.batch_size=8",
    "data.eval_batch_size=2048",
    "model.net.width=16",
    "model.net.depth=3",
    "model.net.heads=2",
    "model.net.head_dim=8",
    "model.net.mlp_hidden=16",
    "optimizer.lr=0.001",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "logger=csv",
)


def compose_config(*overrides: str) -> DictConfig:
    """Compose configs/train.yaml as `python -m bdia.train <overrides>` does."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def run_dir(cfg: DictConfig) -> Path:
    """The one folder of checkpoints under paths.runs/<name>."""
    (folder,) = (Path(cfg.paths.runs) / cfg.name).iterdir()
    return folder


def checkpoint(cfg: DictConfig, name: str = "final.ckpt") -> dict[str, Any]:
    """What the run of a config left behind."""
    return torch.load(run_dir(cfg) / name, map_location="cpu", weights_only=False)


def assert_same(found: Any, wanted: Any, where: str = "") -> None:
    """Equal to the last bit, through dicts and lists."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key in wanted:
            assert_same(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert found == wanted, where
