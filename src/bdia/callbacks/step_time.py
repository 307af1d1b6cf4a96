"""Time per training step and throughput."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from bdia.callbacks.history import Measurement, MeasuringCallback

Step = tuple[Any, Any, Any]  # start and end by `_now`, and what the batch holds: a number, or a tensor on the device


class StepTimer(MeasuringCallback):
    """Median wall time of a training step (forward, backward, optimizer) and of an epoch; images or tokens per second.

    Batches of images are alike but for an epoch's last one, which is left out. Batches of text may all differ in size:
    then all count, and the throughput is the median of the steps' own.

    On CUDA the clock runs between events, so no step waits for the device. They are read at an epoch's end, if the
    device has reached them, and when training ends.

    The loggers get the medians of every epoch, the record those of the training.

    Args:
        skip: first batches that are not counted: warm-up and the batches on which other callbacks measure.
        keep: at most this many steps are timed in an epoch, and for the record.
    """

    def __init__(self, skip: int = 5, keep: int = 1000) -> None:
        super().__init__()
        self.skip, self.keep = skip, keep
        self.steps: list[Step] = []
        self.of_epoch: list[Step] = []
        self.epochs: list[float] = []
        self.epoch_start: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self.epoch_start = time.perf_counter()
        self.of_epoch = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the epoch's clock; it includes data, callbacks and validation."""
        rows = _medians([step for step in self.of_epoch if _is_over(step)], pl_module.throughput)
        if self.epoch_start is not None:  # None: resumed inside this epoch, whose start was another process's
            self.epochs.append(time.perf_counter() - self.epoch_start)
            rows.append(Measurement("epoch_time", self.epochs[-1]))
        self.draw(trainer, rows)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the step's clock."""
        self.step_start = _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the step's clock."""
        seen = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if self.skip < seen and len(self.of_epoch) < self.keep:
            size = pl_module.size(batch) * trainer.world_size
            self.of_epoch.append((self.step_start, _now(pl_module.device), size))
            self.steps += self.of_epoch[-1:] if len(self.steps) < self.keep else []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the medians."""
        self.rows = _medians(self.steps, pl_module.throughput)
        if self.epochs:
            self.rows.append(Measurement("epoch_time", statistics.median(self.epochs)))


def _medians(steps: Sequence[Step], throughput: str) -> list[Measurement]:
    """Return step time and throughput of the steps; nothing where there are none."""
    timed = [(_elapsed(start, end), int(size)) for start, end, size in steps]
    if not timed:
        return []
    largest = max(size for _, size in timed)
    full = [step for step in timed if step[1] == largest]
    counted = full if 2 * len(full) >= len(timed) else timed
    milliseconds = statistics.median(time for time, _ in counted)
    rate = statistics.median(1000 * size / time for time, size in counted)
    return [Measurement("step_time", milliseconds), Measurement(throughput, rate)]


def _is_over(step: Step) -> bool:
    """Tell whether the device has done the step; asks without waiting."""
    return isinstance(step[1], float) or step[1].query()


def _now(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _elapsed(start: Any, end: Any) -> float:
    """Milliseconds between two results of `_now`."""
    if isinstance(start, float):
        return 1000 * (end - start)
    end.synchronize()
    return start.elapsed_time(end)
