"""Loggers, called alike by `build_loggers`: (save_dir, name, group, config)."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, WandbLogger


def csv(save_dir: Path, name: str, group: str, config: dict[str, Any]) -> CSVLogger:
    """Write metrics.csv into the run's folder."""
    return CSVLogger(save_dir, name="", version="csv")


def wandb(save_dir: Path, name: str, group: str, config: dict[str, Any], project: str = "bdia") -> WandbLogger:
    """Log to Weights & Biases: one run per job, grouped by experiment; offline unless an API key is there.

    An offline run lies in <save_dir>/wandb and is sent later with `wandb sync`.
    """
    import wandb as client

    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ.setdefault(variable, str(save_dir / "wandb"))
    online = bool(os.environ.get("WANDB_API_KEY") or client.api.api_key) and os.environ.get("WANDB_MODE") != "offline"
    settings = client.Settings(silent=True, console="off", mode="online" if online else "offline")
    return WandbLogger(save_dir=save_dir, name=name, group=group, config=config, project=project, settings=settings)
