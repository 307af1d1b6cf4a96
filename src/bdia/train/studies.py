"""The studies: their jobs in order of priority, and which of them are recorded."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdia import InvalidValueError
from bdia.build import CONFIGS, check_run, compose, quoted
from bdia.results.identity import config_sha256
from bdia.results.record import RunRecord
from bdia.train.job import RECORD, recorded_config, run_folder
from bdia.train.launch import jobs_of

ORDER = CONFIGS / "studies.yaml"
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
