"""How long jobs will take on this machine: from records made here, else from a few steps, timed as a job runs them.

As a program it times steps: `python -m bdia.train.forecast`, which `step_seconds` starts.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from omegaconf import DictConfig

from bdia import BdiaError
from bdia.build import build_data, build_task, compose
from bdia.data.module import DataModule
from bdia.profiling.device import describe_device
from bdia.profiling.workload import Workload
from bdia.results.record import RunRecord
from bdia.results.variants import flatten
from bdia.train.side_by_side import ENVIRONMENT
from bdia.train.studies import StudyJob

STARTUP = 25.0  # seconds until a run's first step, with the compilation of its kernels
EVALUATION = 1 / 3  # of a step's time for the same images: the forward alone
WARM_UPS, TIMED = 2, 5  # steps: the first ones compile kernels and fill caches
PATIENCE = 5.0  # seconds, after which no further step is timed


class Forecast:
    """Seconds that jobs will take on this machine: of records made here, else from a few timed steps.

    Args:
        records: those that ended well.
    """

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.past: dict[str, list[float]] = {}
        self.name = describe_device("auto")["name"]
        for record in records:
            if record.device["name"] == self.name:
                self.past.setdefault(_condition(record.config), []).append(record.wall_s)
        self.data = DataOnce()

    def seconds_of(self, jobs: Sequence[StudyJob]) -> list[float]:
        """Return the seconds that each job is expected to take, from its start to its record.

        Raises:
            BdiaError: a step could not be timed.
        """
        known = [self.past.get(_condition(job.recorded)) for job in jobs]
        timed: dict[str, StudyJob] = {}
        for job, seconds in zip(jobs, known, strict=True):
            if not seconds:
                timed.setdefault(_step_condition(job), job)
        steps = dict(zip(timed, step_seconds([job.choices for job in timed.values()]), strict=True)) if timed else {}
        return [
            statistics.median(seconds) if seconds else self._counted(job, steps[_step_condition(job)])
            for job, seconds in zip(jobs, known, strict=True)
        ]

    def _counted(self, job: StudyJob, step: float) -> float:
        """Return the seconds of a job whose steps take `step` seconds."""
        data, trainer = self.data.of(job.config), job.config.trainer
        train = limited(len(data.train_dataloader()), trainer.get("limit_train_batches"))
        times = trainer.max_epochs // trainer.check_val_every_n_epoch
        evaluated = times * evaluation(job.config, data, "val") + evaluation(job.config, data, "test")
        return STARTUP + step * (train * trainer.max_epochs + EVALUATION * evaluated)


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


class DataOnce:
    """Data modules by their settings, each read once."""

    def __init__(self) -> None:
        self.read: dict[str, DataModule] = {}

    def of(self, cfg: DictConfig) -> DataModule:
        """Return the data of a config, of any seed."""
        key = json.dumps(flatten(cfg.data), sort_keys=True, default=str)
        if key not in self.read:
            data = build_data(cfg)
            data.prepare_data()
            data.setup()
            self.read[key] = data
        return self.read[key]


def step_seconds(jobs: Sequence[Sequence[str]]) -> list[float]:
    """Return the seconds of a step of each job, timed one after another in a process with a job's environment.

    Args:
        jobs: the choices of each.
    Raises:
        BdiaError: it ended without an answer; with its last words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bdia.train.forecast"], env=os.environ | ENVIRONMENT,
        input=json.dumps([*map(list, jobs)]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise BdiaError(f"a step could not be timed: {words[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds_per_step(cfg: DictConfig, data: DataModule, device: str, repeats: int = TIMED) -> float:
    """Return the least seconds of some training steps on the first batches of an epoch, after two warm-ups.

    The least: whatever else the machine does makes a step longer, never shorter.
    """
    task = build_task(cfg, data.net_arguments, data.task_arguments).to(device)
    optimizer = task.optimizer(task.parameters())
    times = []
    for batch in islice(cycle(data.train_dataloader()), WARM_UPS + repeats):
        batch = tuple(tensor.to(device) for tensor in batch)
        start = time.perf_counter()
        Workload(task, batch, optimizer, cfg.trainer.precision).step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if sum(times[WARM_UPS:]) > PATIENCE:
            break
    return min(times[WARM_UPS:])


def _step_condition(job: StudyJob) -> str:
    """Return what jobs whose steps take equally long have in common."""
    parts = {key: job.recorded[key] for key in ("model", "optimizer", "data", "stack")}
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


def _answer() -> None:
    """Time a step of each job that stdin lists, and print the seconds."""
    device, data = "cuda" if torch.cuda.is_available() else "cpu", DataOnce()
    configs = [compose(choices) for choices in json.load(sys.stdin)]
    print(json.dumps([seconds_per_step(cfg, data.of(cfg), device) for cfg in configs]))


if __name__ == "__main__":
    _answer()
