"""What a training run costs beside its steps: data loading, logging and callbacks, measured inside a run.

A callback stops the run every few steps, runs as many bare steps of the same model on one batch, and goes on. So both
are timed in one process, in turn. Epoch ends (validation, checkpoint) are not steps and are left out.
"""

import logging
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig

from bdia.bench.timing import median_ratio
from bdia.build import build_callbacks, build_data, build_loggers, build_task, build_trainer, close_loggers, compose
from bdia.profiling.workload import Workload

SKIPPED = 6  # first batches: warm-up, and those on which the run's own callbacks measure
STEPS = 5  # of a run, then bare ones
NOTHING_BUT_STEPS = (
    "data.val_fraction=0",
    "+trainer.limit_val_batches=0",
    "trainer.max_epochs=1000",
    "trainer.enable_progress_bar=false",
)


@dataclass
class Overhead:
    """Milliseconds per step, one of each per round."""

    run_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)

    @property
    def extra_ms(self) -> float:
        """Median over the rounds of the milliseconds that a step of the run takes longer than a bare one."""
        return statistics.median(run - bare for run, bare in zip(self.run_ms, self.bare_ms, strict=True))

    @property
    def percent(self) -> float:
        """Median extra time of a run's step, in percent of a bare step."""
        return 100 * (median_ratio(self.run_ms, self.bare_ms) - 1)


class BareSteps(Callback):
    """Time the run's steps and bare ones in turn, then end the run.

    Args:
        bare: the same model on one batch.
        rounds: of `STEPS` steps each.
    """

    def __init__(self, bare: Workload, rounds: int) -> None:
        super().__init__()
        self.bare, self.rounds, self.found = bare, rounds, Overhead()
        self.start: tuple[float, int, int] | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close a stretch of the run, time bare steps, open the next one."""
        seen, epoch = trainer.fit_loop.epoch_loop.batch_progress.total.ready, trainer.current_epoch
        if self.start is not None and seen - self.start[1] < STEPS:
            return
        if self.start is not None and self.start[2] == epoch:
            self.found.run_ms.append(1000 * (self._now() - self.start[0]) / STEPS)
            self.found.bare_ms.append(self._bare())
        trainer.should_stop = len(self.found.run_ms) >= self.rounds
        if seen >= SKIPPED:
            self.start = (self._now(), seen, epoch)

    def _bare(self) -> float:
        start = self._now()
        for _ in range(STEPS):
            self.bare.step()
        return 1000 * (self._now() - start) / STEPS

    def _now(self) -> float:
        if self.bare.batch[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure_overhead(overrides: list[str], rounds: int, device: torch.device) -> dict[str, Any]:
    """Train for a few steps in a temporary folder, W&B offline, and return the record's entry.

    Args:
        overrides: of configs/train.yaml: data, model, stack, batch.
    """
    where = "cpu" if device.type == "cpu" else "gpu"
    cfg = compose([*NOTHING_BUT_STEPS, f"trainer.accelerator={where}", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        found = _run(cfg, rounds, device, Path(folder))
    return {
        "overrides": overrides, "steps": STEPS, "run_ms": found.run_ms, "bare_ms": found.bare_ms,
        "extra_ms": round(found.extra_ms, 3), "percent": round(found.percent, 3),
    }  # fmt: skip


def _run(cfg: DictConfig, rounds: int, device: torch.device, folder: Path) -> Overhead:
    cfg.paths.runs = str(folder)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    task, twin = (build_task(cfg, data.net_arguments, data.task_arguments) for _ in range(2))
    data.prepare_data()
    data.setup()
    batch = tuple(tensor.to(device) for tensor in next(iter(data.train_dataloader())))
    twin.to(device)
    bare = Workload(twin, batch, twin.optimizer(list(twin.parameters())), cfg.trainer.precision)
    bare.step()
    timer = BareSteps(bare, rounds)
    loggers = build_loggers(cfg, folder, "overhead", {})
    trainer = build_trainer(cfg, [*build_callbacks(cfg, folder), timer], loggers, folder)
    try:
        trainer.fit(task, data)
    finally:
        close_loggers(loggers, "success")
    return timer.found
