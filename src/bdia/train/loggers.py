"""Loggers, called alike by `build_loggers`: (save_dir, name, group, config)."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, WandbLogger


def csv_logger(save_dir: Path, name: str, group: str, config: dict[str, Any]) -> CSVLogger:
    """Write csv/version_<n>/metrics.csv into the run's folder; a resumed run opens the next version."""
    return CSVLogger(save_dir, name="csv")


def wandb_logger(save_dir: Path, name: str, group: str, config: dict[str, Any], project: str = "bdia") -> WandbLogger:
    """Log to Weights & Biases: one run per job, grouped by experiment; offline unless an API key is there.

    An offline run lies in <save_dir>/wandb and is sent later with `wandb sync`.
    """
    import wandb as client

    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ.setdefault(variable, str(save_dir / "wandb"))
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    settings = client.Settings(silent=True, console="off", mode=mode)
    client.setup(settings)  # now, or it warns of an argument that Lightning passes
    return WandbLogger(save_dir=save_dir, name=name, group=group, config=config, project=project, settings=settings)


def _has_key() -> bool:
    """Tell whether `wandb login` or WANDB_API_KEY left a key; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
