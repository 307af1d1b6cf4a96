"""Train one model from a config and leave one record. `python -m bdia.train experiment=demo`."""

import gc
import logging
import platform
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from bdia.build import build_callbacks, build_data, build_loggers, build_task, build_trainer
from bdia.measure import Measurement
from bdia.results.identity import config_sha256, git_state, run_id
from bdia.results.record import UNITS, Metric, RunRecord
from bdia.results.store import read_records, write_record

CONFIGS = Path(__file__).parents[2] / "configs"
ROOT = CONFIGS.parent
log = logging.getLogger("bdia")

_NOT_THE_CONDITION = ("paths", "logger", "rerun")  # where things lie and what is logged do not change a result


class SaveOnSigterm(Callback):
    """Write the checkpoint from which the same command continues when the job is told to end."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at the batch boundary at which Lightning raises for SIGTERM."""
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(Path(trainer.checkpoint_callback.dirpath) / "last.ckpt")


def recorded_config(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved config without what is not part of the experiment's condition (paths, loggers)."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    container["data"].pop("data_dir", None)
    return {key: value for key, value in container.items() if key not in _NOT_THE_CONDITION}


def train(cfg: DictConfig) -> RunRecord:
    """Train, test once, and write `<paths.results>/<name>/<run_id>.json`, whatever happens.

    Checkpoints lie in `<paths.runs>/<name>/<config hash>_s<seed>`, so the same config continues an interrupted
    run; a config that has already ended well is not run again unless `rerun=true`.

    Returns:
        The record; for a config that has already ended well, the one on disk.
    Raises:
        Whatever the run raised, after a record with status "failed", "oom" or "interrupted" was written.
    """
    recorded = recorded_config(cfg)
    sha = config_sha256(recorded)
    done = None if cfg.rerun else _finished(Path(cfg.paths.results), cfg.name, sha)
    if done is not None:
        log.warning("already done: %s (commit %s). rerun=true runs it again.", done.run_id, done.git["sha"][:7])
        return done
    started, clock = datetime.now(UTC), time.perf_counter()
    git = git_state(ROOT)
    record = RunRecord(
        run_id=run_id(started, git["sha"], sha, cfg.seed), experiment=cfg.name, status="ok", seed=cfg.seed,
        git=git, config=recorded, config_sha256=sha, device=_device(), precision=str(cfg.trainer.precision),
        started_utc=started.isoformat(), wall_s=0.0, metrics=[], error=None,
    )  # fmt: skip
    run_dir = Path(cfg.paths.runs).resolve() / cfg.name / f"{sha[:8]}_s{cfg.seed}"
    rows: list[Metric] = []
    try:
        _fit_and_test(cfg, recorded, run_dir, rows)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        record = replace(record, status=_status(error), error=reason.replace(str(Path.home()), "~")[:2000])
        raise
    finally:
        record = replace(record, metrics=rows, wall_s=round(time.perf_counter() - clock, 3))
        if _is_rank_zero():
            path = write_record(record, Path(cfg.paths.results))
            log.info("record: %s", path)
    return record


def _fit_and_test(cfg: DictConfig, recorded: dict[str, Any], run_dir: Path, rows: list[Metric]) -> None:
    """Seed first, then build, fit, test; what was measured goes into `rows` even if this raises."""
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    task = build_task(cfg, data.num_classes)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(recorded), run_dir / "config.yaml")
    callbacks = [*build_callbacks(cfg, run_dir), SaveOnSigterm()]
    loggers = build_loggers(cfg, run_dir, f"{run_dir.name}_{_stack_name(recorded)}", recorded)
    try:
        trainer = build_trainer(cfg, callbacks, loggers, run_dir)
        last = run_dir / "last.ckpt"
        trainer.fit(task, data, ckpt_path=last if last.exists() else None, weights_only=False)
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.test(task, data, verbose=False)
        last.replace(run_dir / "final.ckpt")
    finally:
        rows.append(_metric("parameters", sum(p.numel() for p in task.parameters())))
        rows += [_metric(*row) for callback in callbacks if isinstance(callback, Measurement) for row in callback.rows]
        for logger in loggers:
            logger.finalize("success")
        _close_wandb()
        del task, data, callbacks
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next job of a sweep in this process starts from nothing


def _metric(name: str, value: float, split: str | None = None, step: int | None = None) -> Metric:
    return Metric(name, value, UNITS[name], split, step)


def _close_wandb() -> None:
    client = sys.modules.get("wandb")  # not imported where W&B is not asked for
    if client is not None and client.run is not None:
        client.finish()


def _finished(results: Path, experiment: str, sha: str) -> RunRecord | None:
    found = [r for r in read_records(results) if r.experiment == experiment] if results.is_dir() else []
    return next((r for r in reversed(found) if r.config_sha256 == sha and r.status == "ok"), None)


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    return "oom" if out_of_memory else "failed"


def _stack_name(recorded: dict[str, Any]) -> str:
    return recorded["stack"]["_target_"].rpartition(".")[2]


def _is_rank_zero() -> bool:
    return not (torch.distributed.is_initialized() and torch.distributed.get_rank())


def _device() -> dict[str, Any]:
    """Name what the run ran on."""
    on_gpu = torch.cuda.is_available()
    return {
        "name": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
        "count": torch.cuda.device_count() if on_gpu else 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one job; returns the test accuracy for sweepers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        record = train(cfg)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning exits with 0, which a launcher takes for success
    return next((m.value for m in reversed(record.metrics) if (m.name, m.split) == ("accuracy", "test")), None)


if __name__ == "__main__":
    main()
