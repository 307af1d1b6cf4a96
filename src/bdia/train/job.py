"""One run: a config -> fit, test, one record. `bdia train` is its command."""

import contextlib
import gc
import logging
import math
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from bdia import BdiaError, InvalidValueError, UnsupportedError
from bdia.build import (
    CONFIGS,
    build_callbacks,
    build_data,
    build_loggers,
    build_task,
    build_trainer,
    check_run,
    close_loggers,
)
from bdia.callbacks import DivergedError, Divergence, MeasuringCallback
from bdia.data.files import remove_leftovers, write_whole
from bdia.data.module import DataModule
from bdia.profiling.device import describe_device
from bdia.results.checksums import data_remark
from bdia.results.identity import code_since, config_sha256, git_state, run_id
from bdia.results.record import UNITS, Metric, RecordError, RunRecord, describe, status_of
from bdia.results.store import finished_records, record_path, write_record
from bdia.reversible import GridOverflowError
from bdia.tasks import Task
from bdia.train.checkpoints import FINAL, WholeCheckpointIO, newest_whole, remove_resumable
from bdia.train.devices import is_alone_or_first, joined_start, strategy, world_size
from bdia.train.loggers import run_name, summarise
from bdia.train.preflight import check_memory, check_places, check_room
from bdia.train.progress import SINGLE, Job, gamma_cost, progress, say_outcome
from bdia.train.resume import Resume
from bdia.train.stopping import slurm_plugins
from bdia.train.weights import SET_BY_THE_RUN, find_weights, load_weights, train_once

ROOT = CONFIGS.parent
RECORD = "record.json"  # of a run that ended well, beside its weights
log = logging.getLogger("bdia")

UNHASHED_PARTS = ("paths", "logger", "rerun", "scale")  # where things lie and what is logged do not change a result
UNHASHED_KEYS = (
    "data.data_dir",
    "data.download",
    "data.cache_dir",
    "data.source.cache_dir",
    "data.tokenizer.folder",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "callbacks.checkpoint.minutes",
    "callbacks.checkpoint.sharded",
)
ADDED_KEYS = {  # younger than the hash: at this value a run is what it was without the key
    "optimizer.in_backward": False,
    "optimizer.float32_master": False,
    "trainer.strategy": "auto",
    "trainer.num_nodes": 1,
    "stack.tile": None,
    "model.net.stack.tile": None,
    "stack.stream": "float32",
    "model.net.stack.stream": "float32",
    "model.label_smoothing": 0.0,
}
ADDED_TO = {"model.label_smoothing": "bdia.tasks.ImageClassification"}  # the text tasks have had it from the start
_GIT = git_state(ROOT)  # when the code was imported: a commit during a sweep does not change what runs


def recorded_config(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved config without what is not part of the experiment's condition (paths, loggers)."""
    cfg = cfg.copy()
    if cfg.get("weights") is not None:
        cfg.weights = OmegaConf.merge(cfg.weights, dict.fromkeys(SET_BY_THE_RUN))
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for place, key in product(("", "weights.pretrain."), (*UNHASHED_KEYS, *ADDED_KEYS)):
        *groups, name = f"{place}{key}".split(".")
        node = reduce(lambda node, group: node.get(group) or {}, groups, container)
        if node.get("_target_") != ADDED_TO.get(key, node.get("_target_")):
            continue
        if key in UNHASHED_KEYS or node.get(name, ...) == ADDED_KEYS[key]:
            node.pop(name, None)
    return {key: value for key, value in container.items() if key not in UNHASHED_PARTS}


def train(cfg: DictConfig, job: Job = SINGLE) -> RunRecord:
    """Train, test once, and write `<paths.results>/<name>/<run_id>.json`.

    Checkpoints lie in `<paths.runs>/<name>/<config hash>_s<seed>`, so the same config continues an interrupted
    run; a config that has ended well there is not run again unless `rerun=true`.

    Args:
        job: its place in a sweep, for what is printed.
    Returns:
        The record; for a config that has already ended well, the one on disk.
    Raises:
        BdiaError: the config, the data or the machine do not allow the run. Before the first batch it leaves nothing
        behind.
        Whatever the run raised, after a record with status "failed", "oom", "interrupted" or "diverged" was written.
    """
    check_run(cfg)
    leads = is_alone_or_first(cfg.trainer)
    if leads:
        check_places(cfg)
    cfg = find_weights(cfg, lambda first: train_once(first, recorded_config(first), train))
    recorded = recorded_config(cfg)
    sha = config_sha256(recorded)
    run_dir = run_folder(cfg, sha, Path(cfg.paths.runs).resolve())
    done = run_dir / RECORD
    if done.exists() and not cfg.rerun:
        record = _finished(done)
        _check_same_text(cfg, record)
        log.warning("already done by commit %s: %s. rerun=true runs it again.", record.git["sha"][:7], done)
        return record
    found = Measured()
    with _held(run_dir, found) if leads else contextlib.nullcontext():
        return _run_and_record(cfg, recorded, sha, run_dir, found, job)


def run_folder(cfg: DictConfig, sha: str, runs: Path) -> Path:
    """Return the folder of a run's checkpoint and logs; `sha` is that of its recorded config."""
    return runs / cfg.name / f"{sha[:8]}_s{cfg.seed}"


def find_recorded(cfg: DictConfig) -> RunRecord | None:
    """Return the record of a run of this config that ended well, of those in `<paths.results>/<name>`.

    The commit that measured it is said, and whether the code has changed since.
    """
    found = finished_records(cfg.paths.results, cfg.name).get(config_sha256(recorded_config(cfg)))
    if found is not None:
        log.warning(
            "already recorded by commit %s: %s; %s. rerun=true runs it again.",
            found.git["sha"][:7], record_path(found, cfg.paths.results), code_since(ROOT, found.git["sha"]),
        )  # fmt: skip
    return found


def _finished(path: Path) -> RunRecord:
    """Return the record beside a finished run's weights.

    Raises:
        RecordError: it cannot be read; says what to do.
    """
    try:
        return RunRecord.from_json(path.read_text(encoding="utf-8"), str(path))
    except (RecordError, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{error}; rerun=true trains again, or put the record of {path.parent.name} there") from error


@dataclass
class Measured:
    """Measurements so far. They are kept even if the run fails.

    `resumed_from` holds the other commits that trained before an interruption. `trained` is true from the first batch
    on, `stepped` from the second.
    """

    rows: list[Metric] = field(default_factory=list)
    resumed_from: list[str] = field(default_factory=list)
    signatures: dict[str, str] = field(default_factory=dict)
    data_sha256: dict[str, str] = field(default_factory=dict)
    trained: bool = False
    stepped: bool = False


class Began(Callback):
    """Note the first batch: what goes wrong from there on is a result, and gets a record. Note the first step too."""

    def __init__(self, found: Measured) -> None:
        self.found = found

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note it."""
        self.found.stepped = self.found.trained
        self.found.trained = True


def _run_and_record(
    cfg: DictConfig, recorded: dict[str, Any], sha: str, run_dir: Path, found: Measured, job: Job
) -> RunRecord:
    started, clock = datetime.now(UTC), time.perf_counter()
    record = RunRecord(
        run_id=run_id(started, _GIT["sha"], sha, cfg.seed), experiment=cfg.name, status="ok", seed=cfg.seed,
        git=_GIT, config=recorded, config_sha256=sha, device=_devices(cfg),
        precision=str(cfg.trainer.precision), started_utc=started.isoformat(), wall_s=0.0, metrics=[], error=None,
    )  # fmt: skip
    try:
        _fit_and_test(cfg, recorded, run_dir, found, job)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # a sweep keeps the error; the model must not stay with it
        if isinstance(error, BdiaError) and not found.trained:
            raise
        status = "diverged" if _has_diverged(error, found) else status_of(error)
        record = replace(record, status=status, error=describe(error))
        _write(record, found, clock, cfg, run_dir)
        raise
    finally:
        free_memory()
    return _write(record, found, clock, cfg, run_dir)


def _devices(cfg: DictConfig) -> dict[str, Any]:
    return describe_device(cfg.trainer.accelerator) | {"count": world_size(cfg.trainer)}


def _has_diverged(error: BaseException, found: Measured) -> bool:
    """Tell whether training ended because its numbers grew without bound: a loss, or a stream that left the grid.

    In the first batch a stream leaves a grid that is too fine for the model: that is a failure, not divergence.
    """
    return isinstance(error, DivergedError) or (isinstance(error, GridOverflowError) and found.stepped)


def _write(record: RunRecord, found: Measured, clock: float, cfg: DictConfig, run_dir: Path) -> RunRecord:
    """Write the record, of a run that ended well also beside its weights, and print what came out.

    Of several processes the first one does; the others' ends where its own would be written.
    """
    seconds = round(time.perf_counter() - clock, 3)
    git = record.git | ({"resumed_from": found.resumed_from} if found.resumed_from else {})
    record = replace(
        record, git=git, metrics=found.rows, signatures=found.signatures, data_sha256=found.data_sha256, wall_s=seconds
    )
    if not is_alone_or_first(cfg.trainer):
        return record
    path = write_record(record, Path(cfg.paths.results))
    if record.status == "ok":
        write_whole(run_dir / RECORD, path.read_text(encoding="utf-8"))
        remove_resumable(run_dir)
    say_outcome(record, path, run_dir)
    return record


def _check_same_text(cfg: DictConfig, record: RunRecord) -> None:
    """Refuse a finished run whose text was another one: unlike images, text is the user's own and may have changed."""
    for name, value in build_data(cfg).facts.items():
        if not math.isclose(value, seen := record.final(name) or 0.0):
            raise InvalidValueError(
                f"{name} is {value:g} in the data and {seen:g} in the finished run {record.run_id}: the text has "
                "changed. rerun=true trains on the new one"
            )


@contextlib.contextmanager
def _held(run_dir: Path, found: Measured) -> Iterator[None]:
    """Hold the run's folder, so that two processes never write the same checkpoint.

    A run that is refused before its first batch leaves no new folder behind.
    """
    is_new = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UnsupportedError(
            f"another process trains this config in {run_dir}: wait for it, or set another seed or paths.runs"
        ) from error
    try:
        yield
    except BdiaError:
        if is_new and not found.trained:
            shutil.rmtree(run_dir)
            with contextlib.suppress(OSError):  # other runs are in it
                run_dir.parent.rmdir()
        raise
    finally:
        lock.release()


def _fit_and_test(cfg: DictConfig, recorded: dict[str, Any], run_dir: Path, found: Measured, job: Job) -> None:
    """Seed first, then build, fit, test; what was measured goes into `found` even if this raises."""
    leads = is_alone_or_first(cfg.trainer)
    if leads:
        for folder in (run_dir, Path(cfg.paths.results) / cfg.name):
            remove_leftovers(folder)
    start = newest_whole(run_dir, finished=(run_dir / RECORD).exists()) if leads else None
    data = build_data(cfg)
    found.rows += [_metric(name, value) for name, value in data.facts.items()]
    check_memory(cfg, data.net_arguments)
    seed_everything(cfg.seed, verbose=False)
    task = build_task(cfg, data.net_arguments, data.task_arguments)
    if leads:
        check_room(run_dir, task.net)
    if cfg.get("weights") is not None:
        fresh = load_weights(task.net, Path(cfg.weights.found))
        log.info("starts from %s%s", cfg.weights.found, f" but for {', '.join(fresh)}" if fresh else "")
    if leads:
        data.save(run_dir)
        write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(recorded)))
    shown = [progress(job)] if leads and cfg.trainer.get("enable_progress_bar", True) else []
    resume = Resume(_GIT["sha"])
    callbacks = [*build_callbacks(cfg, run_dir), Divergence(), resume, Began(found), *shown]
    loggers = build_loggers(cfg, run_dir, run_name(recorded), recorded) if leads else []
    outcome = "failed"
    try:
        in_shares = bool(cfg.callbacks.checkpoint.get("sharded", False))
        joined = strategy(cfg.trainer.get("strategy", "auto"), world_size(cfg.trainer), in_shares)
        trainer = build_trainer(cfg, callbacks, loggers, run_dir, [WholeCheckpointIO(), *slurm_plugins()], joined)
        start = joined_start(trainer, task, start)
        if cfg.stack.get("memory_budget") is not None:
            found.rows.append(_metric("kept_blocks", _fit_to_memory(cfg, data, task, trainer)))
        if cost := gamma_cost(task.net):
            log.info("%s", cost)
        if start is not None:
            log.info("continues from %s", start)
        try:
            trainer.fit(task, data, ckpt_path=start, weights_only=True)
        except SIGTERMException:
            resume.stopping.raise_requeue()
            raise
        except MisconfigurationException as error:  # what only Lightning can tell, when it has seen the data
            raise InvalidValueError(f"trainer: Lightning refuses it: {' '.join(str(error).split())}") from error
        trainer.save_checkpoint(run_dir / FINAL)  # last.ckpt may be older: callbacks.checkpoint says how often
        trainer.test(task, data, verbose=False)
        outcome = "success"
    finally:
        found.signatures |= task.signatures
        found.data_sha256 = data.checksums
        if remark := data_remark(found.data_sha256):
            log.info("%s", remark)
        found.resumed_from = resume.earlier
        found.rows.append(_metric("parameters", sum(p.numel() for p in task.parameters())))
        measured = [callback.rows for callback in callbacks if isinstance(callback, MeasuringCallback)]
        found.rows += [_metric(*row) for rows in measured for row in rows]
        try:
            summarise(loggers, found.rows)
        finally:
            close_loggers(loggers, outcome)


def _fit_to_memory(cfg: DictConfig, data: DataModule, task: Task, trainer: Trainer) -> int:
    """Choose the blocks that keep their activations; returns how many."""
    from bdia.profiling.fit_run import fit_run_to_memory  # here: it reads every kind of model

    fit = fit_run_to_memory(cfg, data, task, trainer.strategy.root_device.type == "cuda")
    log.info("%s", fit)
    return fit.kept_blocks


def _metric(name: str, value: float, split: str | None = None, step: int | None = None) -> Metric:
    return Metric(name, value, UNITS[name], split, step)


def free_memory() -> None:
    """Leave nothing of this job to the next one of a sweep, in this process or on the same device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
