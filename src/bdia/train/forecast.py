"""How long jobs will take on this machine: from records made here, else counted from the time of a few steps."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bdia.data.module import DataModule
from bdia.profiling.device import describe_device
from bdia.results.identity import config_sha256
from bdia.results.record import RunRecord
from bdia.results.variants import flatten
from bdia.train.job import RECORD, recorded_config, run_folder
from bdia.train.step_time import DataOnce, step_seconds
from bdia.train.studies import StudyJob
from bdia.train.weights import pretraining, without_weights

STARTUP = 25.0  # seconds until a run's first step, with the compilation of its kernels
EVALUATION = 1 / 3  # of a step's time for the same images: the forward alone


@dataclass(frozen=True)
class Training:
    """One training that a job makes.

    Args:
        recorded: its config as its record holds it.
        config: what its steps are timed with.
    """

    recorded: Mapping[str, Any]
    config: DictConfig


class Forecast:
    """Seconds that jobs will take on this machine: of records made here, else of a few timed steps.

    Args:
        records: those that ended well.
        runs: where a pretraining may lie that is done.
    """

    def __init__(self, records: Sequence[RunRecord], runs: Path) -> None:
        self.past: dict[str, list[float]] = {}
        self.name = describe_device("auto")["name"]
        for record in records:
            if record.device["name"] == self.name:
                self.past.setdefault(_condition(record.config), []).append(record.wall_s)
        self.data = DataOnce()
        self.runs = runs

    def seconds_of(self, jobs: Sequence[StudyJob]) -> list[float]:
        """Return the seconds that each job is expected to take, from its start to its record.

        Raises:
            BdiaError: a step could not be timed.
        """
        pretrained: set[str] = set()
        trainings = [_trainings(job, self.runs, pretrained) for job in jobs]
        timed: dict[str, DictConfig] = {}
        for training in chain(*trainings):
            if not self._past(training):
                timed.setdefault(_step_condition(training), training.config)
        steps = dict(zip(timed, step_seconds([*timed.values()]), strict=True)) if timed else {}
        return [sum(self._seconds(training, steps) for training in job) for job in trainings]

    def _past(self, training: Training) -> list[float]:
        return self.past.get(_condition(training.recorded), [])

    def _seconds(self, training: Training, steps: Mapping[str, float]) -> float:
        """Return the seconds of a training: of records, else counted from the seconds of its steps."""
        if past := self._past(training):
            return statistics.median(past)
        cfg, step = training.config, steps[_step_condition(training)]
        data, trainer = self.data.of(cfg), cfg.trainer
        train = limited(len(data.train_dataloader()), trainer.get("limit_train_batches"))
        times = trainer.max_epochs // trainer.check_val_every_n_epoch
        evaluated = times * evaluation(cfg, data, "val") + evaluation(cfg, data, "test")
        return STARTUP + step * (train * trainer.max_epochs + EVALUATION * evaluated)


def _trainings(job: StudyJob, runs: Path, pretrained: set[str]) -> list[Training]:
    """Return what a job trains: its own run, and its pretraining where no other job did it before.

    Args:
        pretrained: SHA-256 of the pretrainings that are spoken for; grows.
    """
    if job.config.get("weights") is None:
        return [Training(job.recorded, job.config)]
    own = Training(job.recorded, without_weights(job.config))
    if job.config.weights["from"] is not None:
        return [own]
    first = pretraining(job.config)
    recorded = recorded_config(first)
    sha = config_sha256(recorded)
    done = sha in pretrained or (run_folder(first, sha, runs) / RECORD).exists()
    pretrained.add(sha)
    return [own] if done else [Training(recorded, first), own]


def limited(batches: float, limit: float | None) -> float:
    """Return how many of an epoch's batches run under a limit of Lightning's: a number of them, or a share."""
    if limit is None:
        return batches
    return batches * limit if isinstance(limit, float) else min(batches, limit)


def evaluation(cfg: DictConfig, data: DataModule, split: str) -> float:
    """Return how much one pass over a split holds, in batches of training."""
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    batches: float = len(loader)
    name = "batch_size" if "batch_size" in cfg.data else "token_budget"
    size = cfg.data.get(f"eval_{name}", cfg.data[name])
    if hasattr(data, "sizes"):  # images: the last batch may be short
        batches = data.sizes[split] / size
    return limited(batches, cfg.trainer.get(f"limit_{split}_batches")) * size / cfg.data[name]


def _step_condition(training: Training) -> str:
    """Return what trainings whose steps take equally long have in common."""
    parts = {key: training.recorded[key] for key in ("model", "optimizer", "data", "stack")}
    return _condition(parts, without=("gamma", "bits", "lr", "weight_decay", "dropout", "label_smoothing"))


def _condition(config: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """Return what two runs of one length have in common: the config without its seed, and without some keys."""
    kept = {key: value for key, value in flatten(config).items() if not set(key.split(".")) & set(without)}
    return json.dumps(kept, sort_keys=True, default=str)


def expected_ends(seconds: Sequence[float], workers: int) -> list[float]:
    """Return when each job ends if `workers` take them in order, in seconds from the start."""
    free = [0.0] * workers
    ends = []
    for took in seconds:
        first = free.index(min(free))
        free[first] += took
        ends.append(free[first])
    return ends
