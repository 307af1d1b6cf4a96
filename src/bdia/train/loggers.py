"""Loggers, called alike by `build_loggers`: (save_dir, name, group, config)."""

import csv
import io
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from bdia.data.files import write_whole


class WholeCsv(ExperimentWriter):
    """metrics.csv, written anew at every save: a kill or a full disk leaves the one before, not half a line."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows: list[dict[str, float]] = []
        self.metrics: list[dict[str, float]] = []

    def save(self) -> None:
        """Write all rows; a row has no value where it measured nothing."""
        self.rows += self.metrics
        self.metrics = []
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, sorted(set().union(*self.rows)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(Path(self.metrics_file_path), text.getvalue())


class WholeCsvLogger(CSVLogger):
    """Lightning's logger with `WholeCsv` as its writer."""

    @property
    @rank_zero_experiment
    def experiment(self) -> WholeCsv:
        """The writer of this run's file."""
        writer: WholeCsv | None = self.__dict__.get("_experiment")
        if writer is None:
            writer = self._experiment = WholeCsv(self.log_dir)
        return writer


def csv_logger(save_dir: Path, name: str, group: str, config: dict[str, Any]) -> CSVLogger:
    """Write csv/version_<n>/metrics.csv into the run's folder; a resumed run opens the next version."""
    return WholeCsvLogger(save_dir, name="csv")


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
