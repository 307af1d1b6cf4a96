"""One job: a config -> fit, test, one record. `python -m bdia.train` and `bdia train` are its commands."""

from typing import TYPE_CHECKING

from bdia import lazy_names

if TYPE_CHECKING:  # what a type checker or an editor reads
    from bdia.train.job import train as train
    from bdia.train.loggers import csv_logger as csv_logger
    from bdia.train.loggers import wandb_logger as wandb_logger

_MODULES = {
    "train": ".job",
    "csv_logger": ".loggers",
    "wandb_logger": ".loggers",
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
