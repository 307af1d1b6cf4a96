"""The studies: their jobs in order of priority, which of them are recorded, and how long the others will take."""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from bdia import InvalidValueError
from bdia.build import CONFIGS, build_data, build_task, check_run, compose, quoted
from bdia.data.module import DataModule
from bdia.profiling.device import describe_device
from bdia.profiling.workload import Workload
from bdia.results.identity import config_sha256
from bdia.results.record import RunRecord
from bdia.results.variants import flatten
from bdia.train.job import RECORD, recorded_config, run_folder
from bdia.train.launch import jobs_of

ORDER = CONFIGS / "studies.yaml"
STARTUP = 25.0  # seconds until a run's first step, with the compilation of its kernels
EVALUATION = 1 / 3  # of a step's time for the same images: the forward alone
GPU_MEMORY = 2 * 2**30  # bytes that a job is allowed on a GPU which it shares


@dataclass(frozen=True)
class StudyJob:
    """One run of a study.

    Args:
        study: its experiment's name.
        choices: the overrides that make it.
        config: what they compose to.
    """

    study: str
    choices: tuple[str, ...]
    config: DictConfig

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """The config as its record holds it."""
        return recorded_config(self.config)

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the recorded config: what names the run."""
        return config_sha256(self.recorded)

    def __str__(self) -> str:
        varied = [text for text in self.choices if not text.startswith(("experiment=", "scale/"))]
        return " ".join([str(self.config.name), *varied])

    def argv(self, runs: Path, results: Path) -> list[str]:
        """Return the command that trains it alone."""
        places = quoted([f"paths.runs={runs}", f"paths.results={results}"])
        return [sys.executable, "-m", "bdia.train", *self.choices, *places, "hydra.mode=RUN"]


def studies() -> list[str]:
    """Return the names of the studies, the most important first."""
    return list(OmegaConf.load(ORDER).order)


def scales_of(study: str) -> tuple[str, list[str]]:
    """Return the group of a study's scales, such as "scale/cifar10", and the names in it.

    Raises:
        ValueError: no such study, or an experiment without scales.
    """
    path = CONFIGS / "experiment" / f"{study}.yaml"
    entries = OmegaConf.load(path).get("defaults") or [] if path.is_file() else []
    keys = [str(key) for entry in entries if isinstance(entry, Mapping) for key in entry]
    groups = [key.removeprefix("/") for key in keys if key.startswith("/scale/")]
    if not groups:
        raise InvalidValueError(f"study {study}: wanted one of {', '.join(studies())}; set name")
    return groups[0], sorted(path.stem for path in (CONFIGS / groups[0]).glob("*.yaml"))


def overrides_of(study: str, scale: str) -> list[str]:
    """Return the choices that make a study at a scale.

    Raises:
        ValueError: it has no such scale.
    """
    group, scales = scales_of(study)
    if scale not in scales:
        raise InvalidValueError(f"scale={scale}: {study} has {', '.join(scales)}; set scale")
    return [f"experiment={study}", f"{group}={scale}"]


def study_jobs(study: str, scale: str, extra: Sequence[str] = ()) -> list[StudyJob]:
    """Return a study's jobs, seed by seed, so that whatever ends is balanced.

    Args:
        extra: further overrides, such as "seed=0,1".
    Raises:
        ValueError: a choice of any of the jobs is refused.
    """
    jobs: list[StudyJob] = []
    variants: dict[tuple[str, ...], DictConfig] = {}
    for choices in jobs_of([*overrides_of(study, scale), *extra], sweep=True):
        variant = tuple(text for text in choices if not text.startswith("seed="))
        config = variants.get(variant)
        if config is None:  # seeds of one variant compose to the same
            config = variants[variant] = compose(choices)
            check_run(config)
        config = config.copy()
        config.seed = int(next(text for text in choices if text.startswith("seed=")).partition("=")[2])
        jobs.append(StudyJob(study, tuple(choices), config))
    return sorted(jobs, key=lambda job: job.config.seed)


def is_done(job: StudyJob, finished: Mapping[str, RunRecord], runs: Path) -> bool:
    """Tell whether a job has a record, or ended well in `runs`.

    Args:
        finished: the records that ended well, by the SHA-256 of their configs.
    """
    folder = run_folder(job.config.copy(), job.sha, runs)
    return job.sha in finished or (folder / RECORD).exists()


class Forecast:
    """Seconds that jobs will take on this machine: of records made here, else from a few timed steps.

    Args:
        records: those that ended well.
    """

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.past: dict[str, list[float]] = {}
        self.name = describe_device("auto")["name"]
        for record in records:
            if record.device["name"] == self.name:
                self.past.setdefault(_condition(record.config), []).append(record.wall_s)
        self.data: dict[str, DataModule] = {}
        self.steps: dict[str, float] = {}

    def seconds(self, job: StudyJob) -> float:
        """Return the seconds that a job is expected to take, from its start to its record."""
        known = self.past.get(_condition(job.recorded))
        if known:
            return statistics.median(known)
        data = self._data(job)
        step = self._step(job, data)
        trainer = job.config.trainer
        epochs, every = trainer.max_epochs, trainer.check_val_every_n_epoch
        batch = job.config.data.batch_size
        evaluated = data.sizes["val"] * (epochs // every) + data.sizes["test"]
        return STARTUP + step * (len(data.train_dataloader()) * epochs + EVALUATION * evaluated / batch)

    def _data(self, job: StudyJob) -> DataModule:
        """Return a job's data, read once for all seeds."""
        key = json.dumps(flatten(job.recorded["data"]), sort_keys=True, default=str)
        if key not in self.data:
            data = build_data(job.config)
            data.prepare_data()
            data.setup()
            self.data[key] = data
        return self.data[key]

    def _step(self, job: StudyJob, data: DataModule) -> float:
        """Return the seconds of a step, timed once for all jobs whose steps do the same."""
        parts = {key: job.recorded[key] for key in ("model", "optimizer", "data")}
        key = _condition({**parts, "stack": job.recorded["stack"]}, without=("gamma", "bits", "lr", "dropout"))
        if key not in self.steps:
            self.steps[key] = seconds_per_step(job.config, data, self.device)
        return self.steps[key]


def seconds_per_step(cfg: DictConfig, data: DataModule, device: str, repeats: int = 3) -> float:
    """Median seconds of a training step on the first batches of an epoch, after one warm-up."""
    task = build_task(cfg, data.net_arguments, data.task_arguments).to(device)
    optimizer = task.optimizer(task.parameters())
    times = []
    for batch in islice(cycle(data.train_dataloader()), 1 + repeats):
        batch = tuple(tensor.to(device) for tensor in batch)
        start = time.perf_counter()
        Workload(task, batch, optimizer, cfg.trainer.precision).step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def expected_ends(seconds: Sequence[float], workers: int) -> list[float]:
    """Return when each job ends if `workers` take them in order, in seconds from the start."""
    free = [0.0] * workers
    ends = []
    for took in seconds:
        first = free.index(min(free))
        free[first] += took
        ends.append(free[first])
    return ends


def _condition(config: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """Return what two runs of one length have in common: the config without its seed, and without some keys."""
    kept = {key: value for key, value in flatten(config).items() if not set(key.split(".")) & set(without)}
    return json.dumps(kept, sort_keys=True, default=str)
