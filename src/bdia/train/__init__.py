"""One job: a config -> fit, test, one record. `python -m bdia.train` and `bdia train` are its commands."""

from bdia import lazy_names

_MODULES = {
    "train": ".job",
    "csv_logger": ".loggers",
    "wandb_logger": ".loggers",
}

__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
