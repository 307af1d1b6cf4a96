"""One run: a config -> fit, test, one record. `bdia.train` is its command."""

import contextlib
import fcntl
import gc
import logging
import math
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from bdia import InvalidValueError, UnsupportedError
from bdia.build import CONFIGS, build_callbacks, build_data, build_loggers, build_task, build_trainer
from bdia.callbacks import MeasuringCallback
from bdia.profiling.device import describe_device
from bdia.results.identity import config_sha256, git_state, run_id
from bdia.results.record import UNITS, Metric, RunRecord, describe, status_of
from bdia.results.store import write_record
from bdia.train.progress import ProgressBar
from bdia.train.weights import SET_BY_THE_RUN, find_weights, load_weights, train_once

ROOT = CONFIGS.parent
log = logging.getLogger("bdia")

_NOT_THE_CONDITION = ("paths", "logger", "rerun")  # where things lie and what is logged do not change a result
_NOT_THE_CONDITION_EITHER = (
    "data.data_dir",
    "data.download",
    "data.cache_dir",
    "data.source.cache_dir",
    "data.tokenizer.folder",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
)
_GIT = git_state(ROOT)  # when the code was imported: a commit during a sweep does not change what runs


class Resume(Callback):
    """Continue at the very batch at which a checkpoint was written, and write one when the job is told to end."""

    position: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the loader's position."""
        checkpoint["train_loader"] = trainer.train_dataloader.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the position until there is a loader."""
        self.position = checkpoint.get("train_loader")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the position; Lightning forgets to where the schedule's length was asked for before (2.6)."""
        if self.position is not None:
            trainer.train_dataloader.load_state_dict(self.position)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at the batch boundary at which Lightning raises; inside validation or test the last epoch's stands."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            trainer.save_checkpoint(Path(trainer.checkpoint_callback.dirpath) / "last.ckpt")


def recorded_config(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved config without what is not part of the experiment's condition (paths, loggers)."""
    cfg = cfg.copy()
    if cfg.get("weights") is not None:
        cfg.weights = OmegaConf.merge(cfg.weights, dict.fromkeys(SET_BY_THE_RUN))
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for key in [*_NOT_THE_CONDITION_EITHER, *(f"weights.pretrain.{key}" for key in _NOT_THE_CONDITION_EITHER)]:
        *groups, name = key.split(".")
        reduce(lambda node, group: node.get(group) or {}, groups, container).pop(name, None)
    return {key: value for key, value in container.items() if key not in _NOT_THE_CONDITION}


def train(cfg: DictConfig) -> RunRecord:
    """Train, test once, and write `<paths.results>/<name>/<run_id>.json`, whatever happens.

    Checkpoints lie in `<paths.runs>/<name>/<config hash>_s<seed>`, so the same config continues an interrupted
    run; a config that has ended well there is not run again unless `rerun=true`.

    Returns:
        The record; for a config that has already ended well, the one on disk.
    Raises:
        ValueError: more than one device; the text of a finished run has changed. RuntimeError: another process trains
        the same config in the same folder.
        Whatever the run raised, after a record with status "failed", "oom" or "interrupted" was written.
    """
    _check_devices(cfg.trainer.devices)
    cfg = find_weights(cfg, lambda first: train_once(first, recorded_config(first), train))
    recorded = recorded_config(cfg)
    sha = config_sha256(recorded)
    run_dir = Path(cfg.paths.runs).resolve() / cfg.name / f"{sha[:8]}_s{cfg.seed}"
    done = run_dir / "record.json"
    if done.exists() and not cfg.rerun:
        record = RunRecord.from_json(done.read_text(), str(done))
        _check_same_text(cfg, record)
        log.warning("already done by commit %s: %s. rerun=true runs it again.", record.git["sha"][:7], done)
        return record
    with _lock(run_dir):
        return _run_and_record(cfg, recorded, sha, run_dir)


def _run_and_record(cfg: DictConfig, recorded: dict[str, Any], sha: str, run_dir: Path) -> RunRecord:
    started, clock = datetime.now(UTC), time.perf_counter()
    record = RunRecord(
        run_id=run_id(started, _GIT["sha"], sha, cfg.seed), experiment=cfg.name, status="ok", seed=cfg.seed,
        git=_GIT, config=recorded, config_sha256=sha, device=describe_device(cfg.trainer.accelerator),
        precision=str(cfg.trainer.precision), started_utc=started.isoformat(), wall_s=0.0, metrics=[], error=None,
    )  # fmt: skip
    rows: list[Metric] = []
    signatures: dict[str, str] = {}
    try:
        _fit_and_test(cfg, recorded, run_dir, rows, signatures)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # a sweep keeps the error; the model must not stay with it
        record = replace(record, status=status_of(error), error=describe(error))
        raise
    finally:
        free_memory()
        record = replace(record, metrics=rows, signatures=signatures, wall_s=round(time.perf_counter() - clock, 3))
        path = write_record(record, Path(cfg.paths.results))
        again = ": the same command continues" if record.status == "interrupted" else ""
        log.info("%s; record: %s", _test_results(record) or record.status + again, path)
    shutil.copy(path, run_dir / "record.tmp")
    (run_dir / "record.tmp").replace(run_dir / "record.json")
    log.info("checkpoint: %s", run_dir / "final.ckpt")
    return record


def _check_same_text(cfg: DictConfig, record: RunRecord) -> None:
    """Refuse a finished run whose text was another one: unlike images, text is the user's own and may have changed."""
    for name, value in build_data(cfg).facts.items():
        if not math.isclose(value, seen := record.final(name) or 0.0):
            raise InvalidValueError(
                f"{name} is {value:g} in the data and {seen:g} in the finished run {record.run_id}: the text has "
                "changed. rerun=true trains on the new one"
            )


def _check_devices(devices: Any) -> None:
    count = len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
    if str(count) != "1":
        raise InvalidValueError(
            f"trainer.devices={devices}: a run and its record cover one device, wanted 1. Run one job per device "
            "(hydra/launcher=joblib), or use bdia.reversible in a DDP or FSDP2 script of your own"
        )


@contextlib.contextmanager
def _lock(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder, so that two processes never write the same checkpoint."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnsupportedError(
                f"another process trains this config in {run_dir}: wait for it, or set another seed or paths.runs"
            ) from error
        yield


def _fit_and_test(
    cfg: DictConfig, recorded: dict[str, Any], run_dir: Path, rows: list[Metric], signatures: dict[str, str]
) -> None:
    """Seed first, then build, fit, test; what was measured goes into `rows` and `signatures` even if this raises."""
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    rows += [_metric(name, value) for name, value in data.facts.items()]
    task = build_task(cfg, data.net_arguments, data.task_arguments)
    if cfg.get("weights") is not None:
        fresh = load_weights(task.net, Path(cfg.weights.found))
        log.info("starts from %s%s", cfg.weights.found, f" but for {', '.join(fresh)}" if fresh else "")
    data.save(run_dir)
    OmegaConf.save(OmegaConf.create(recorded), run_dir / "config.yaml")
    bar = [ProgressBar()] if cfg.trainer.get("enable_progress_bar", True) else []
    callbacks = [*build_callbacks(cfg, run_dir), Resume(), *bar]
    loggers = build_loggers(cfg, run_dir, f"{run_dir.name}_{_stack_name(recorded)}", recorded)
    outcome = "failed"
    try:
        trainer = build_trainer(cfg, callbacks, loggers, run_dir)
        if cfg.stack.get("memory_budget") is not None:
            from bdia.profiling.fit_run import fit_run_to_memory  # here: it reads every kind of model

            on_cuda = trainer.strategy.root_device.type == "cuda"
            fit = fit_run_to_memory(cfg, data, task, on_cuda)
            rows.append(_metric("kept_blocks", fit.kept_blocks))
            log.info("%s", fit)
        last = run_dir / "last.ckpt"
        if last.exists():
            log.info("continues from %s", last)
        trainer.fit(task, data, ckpt_path=last if last.exists() else None, weights_only=False)
        trainer.save_checkpoint(run_dir / "final.ckpt")  # last.ckpt may be older: callbacks.checkpoint says how often
        trainer.test(task, data, verbose=False)
        last.unlink(missing_ok=True)
        outcome = "success"
    finally:
        signatures |= task.signatures
        rows.append(_metric("parameters", sum(p.numel() for p in task.parameters())))
        rows += [
            _metric(*row) for callback in callbacks if isinstance(callback, MeasuringCallback) for row in callback.rows
        ]
        for logger in loggers:
            logger.finalize(outcome)
        _close_wandb(outcome)


def _test_results(record: RunRecord) -> str:
    """Return e.g. "test loss 1.589 nat, test accuracy 45.4 %"; "" where nothing was tested."""
    rows = [row for row in record.metrics if row.split == "test"]
    return ", ".join(f"test {row.name} {row.value:.4g} {row.unit}".removesuffix(" 1") for row in rows)


def _metric(name: str, value: float, split: str | None = None, step: int | None = None) -> Metric:
    return Metric(name, value, UNITS[name], split, step)


def _close_wandb(outcome: str) -> None:
    client = sys.modules.get("wandb")  # not imported where W&B is not asked for
    if client is not None and client.run is not None:
        client.finish(exit_code=int(outcome == "failed"))


def free_memory() -> None:
    """Leave nothing of this job to the next one of a sweep, in this process or on the same device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stack_name(recorded: dict[str, Any]) -> str:
    return recorded["stack"]["_target_"].rpartition(".")[2]
