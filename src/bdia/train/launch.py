"""From the command line to jobs: check all of them, then let Hydra run them, one or a sweep.

What can be refused without the data and the model is refused before Hydra makes a folder. torch is imported once the
choices compose.
"""

import hashlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bdia import BdiaError, InvalidValueError
from bdia.build import CONFIGS, check_run, completed, compose, quoted
from bdia.results.output import say, say_on_stderr
from bdia.train.launchers import check_launcher, starts_processes

LONGEST = 120  # bytes of a part of a folder's name


def launch(overrides: Sequence[str], sweep: bool = False) -> None:
    """Train the job, or all jobs of a sweep: `sweep`, or an experiment that says so.

    Raises:
        BdiaError: a choice of any of the jobs is refused, and nothing was written; else what a job raised.
        SystemExit: 143 after SIGTERM, 138 or 140 after SIGUSR1 or SIGUSR2.
    """
    overrides = quoted(overrides)
    jobs = jobs_of(overrides, sweep)
    for job in jobs:
        cfg = compose(job)
        check_run(cfg)
    from bdia.train.devices import follower_overrides, is_alone_or_first, must_start, start, world_size  # here: torch

    launcher = compose(jobs[0], return_hydra_config=True).hydra.launcher
    check_launcher(launcher, cfg.trainer)
    if must_start(cfg.trainer) and not starts_processes(launcher):
        if len(jobs) > 1:
            raise InvalidValueError(
                f"trainer.devices={cfg.trainer.devices} with {len(jobs)} jobs: wanted one job at a time; give each of "
                "them its own bdia train, or set hydra/launcher=submitit_slurm"
            )
        start(overrides, world_size(cfg.trainer))
        return
    if Path.cwd() != CONFIGS.parent and is_alone_or_first(cfg.trainer):  # not a checkout
        results, runs = (Path(cfg.paths[name]).resolve() for name in ("results", "runs"))
        say(f"records go to {results}, checkpoints and logs to {runs}")
    overrides = [*overrides, *follower_overrides(cfg.trainer)]
    count, varied = len(jobs), {key for key, values in _by_key(jobs).items() if len(values) > 1}
    refused: list[BdiaError] = []

    def task(cfg: DictConfig) -> float | None:
        try:
            return run_job(cfg, count, varied)
        except BdiaError as error:
            if not _in_this_process():
                raise
            refused.append(error)  # raised below: Hydra would print a line of its own
            return None

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors over instead of printing them with its advice
    sys.argv = ["bdia", *overrides, *(["--multirun"] if sweep else [])]
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(task)()
    if refused:
        raise refused[0]


def _in_this_process() -> bool:
    """Tell whether Hydra runs jobs one after another in this process."""
    own = HydraConfig.get()
    return own.mode == RunMode.RUN or own.launcher._target_.endswith("BasicLauncher")


def jobs_of(overrides: Sequence[str], sweep: bool = False) -> list[list[str]]:
    """Return the overrides of each job, as Hydra's sweeper makes them: of keys given twice the last one counts.

    Raises:
        ValueError: an override that cannot be read, or values of a sweep where there is none.
    """
    firsts, given = [], {}
    for text in overrides:
        key, values = _values(text)
        firsts.append(values[0])
        given[key] = values
    cfg = compose(firsts, return_hydra_config=True)
    if not (sweep or cfg.hydra.mode == RunMode.MULTIRUN):
        compose(overrides)  # refuses several values
        return [list(overrides)]
    swept = dict(_values(f"{key}={values}") for key, values in (cfg.hydra.sweeper.get("params") or {}).items())
    ours = {key: values for key, values in given.items() if not key.startswith("hydra.")}
    hydras = [text for key, values in given.items() if key.startswith("hydra.") for text in values]
    return [[*job, *hydras] for job in product(*(swept | ours).values())]


def _by_key(jobs: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """Return the values that each key has in the jobs."""
    found: dict[str, set[str]] = {}
    for job in jobs:
        for choice in job:
            key, _, value = choice.partition("=")
            found.setdefault(key, set()).add(value)
    return found


def _values(text: str) -> tuple[str, list[str]]:
    """Return the key of an override, and the override with each of its values."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        compose([text])
        raise InvalidValueError(f"{text}: wanted key=value") from error
    key = override.get_key_element()
    if not override.is_sweep_override():
        return key, [text]
    if not override.is_discrete_sweep():
        raise InvalidValueError(f"{text}: wanted values such as 1,2 or range(1,3)")
    return key, [f"{key}={value}" for value in override.sweep_string_iterator()]


RELATIVE = ("paths.runs", "paths.results", "data.data_dir", "data.cache_dir", "weights.from")


def _from_there(cfg: DictConfig, typed: Path) -> DictConfig:
    """With hydra.job.chdir=true: relative paths mean the folder in which the command was typed, not the job's own."""
    cfg = cfg.copy()
    for key in RELATIVE:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, str) and (not key.startswith("weights.") or (typed / value).exists()):
            OmegaConf.update(cfg, key, str(typed / value))
    return cfg


def short_folder(name: str) -> str:
    """Return the name of a job's folder with every part short enough for a file system."""
    return "/".join(_short(part) for part in name.split("/"))


def _short(part: str) -> str:
    data = part.encode()
    if len(data) <= LONGEST:
        return part
    return f"{data[:LONGEST].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()[:8]}"


OmegaConf.register_new_resolver("bdia.short", short_folder, replace=True)  # of configs/hydra; also in a launcher's job


def run_job(cfg: DictConfig, count: int = 1, varied: Collection[str] = ()) -> float | None:
    """Run one job; returns the test accuracy, BLEU or else loss for sweepers.

    Args:
        count: of the sweep's jobs.
        varied: keys whose value differs between them.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from bdia.train.job import find_recorded, train
    from bdia.train.progress import SINGLE, Job
    from bdia.train.stopping import RequeueException, queue_again

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    own = HydraConfig.get()
    job = SINGLE
    if own.mode == RunMode.MULTIRUN:
        own_choices = " ".join(choice for choice in own.overrides.task if choice.partition("=")[0] in varied)
        job = Job(own.job.num + 1, count, in_turn=_in_this_process())
        say(f"{job}: {own_choices}")
    cfg = completed(cfg)
    if OmegaConf.select(own, "job.chdir"):
        cfg = _from_there(cfg, Path(own.runtime.cwd))
    try:
        record = (find_recorded(cfg) if job.count > 1 and not cfg.rerun else None) or train(cfg, job)
    except RequeueException as error:
        queue_again(error.signum)
        sys.exit(128 + error.signum)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning exits with 0, which a launcher takes for success
    except SystemExit as error:  # Lightning's way out of Ctrl-C
        sys.exit(128 + signal.SIGINT if isinstance(error.__context__, KeyboardInterrupt) else error.code)
    except Exception as error:
        if own.mode == RunMode.MULTIRUN:  # the other jobs go on; at the end the first error is raised, without its job
            told = f"error: {error}" if isinstance(error, BdiaError) else traceback.format_exc()
            say_on_stderr(f"{job}: {told}")
        raise
    results = (record.final(name, "test") for name in ("accuracy", "bleu", "loss"))
    return next((value for value in results if value is not None), None)
