"""What a run shows: a bar on a terminal, lines elsewhere and in sweeps, and what came out at the end."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from torch import nn

from bdia.results.output import say
from bdia.results.record import RunRecord
from bdia.reversible import Discrete

SECONDS_PER_LINE = 10.0


@dataclass(frozen=True)
class Job:
    """The place of a run in its sweep.

    Args:
        number: from 1.
        count: of the sweep's jobs.
        in_turn: jobs run one after another, so that their times add up.
    """

    number: int = 1
    count: int = 1
    in_turn: bool = True

    def __str__(self) -> str:
        return f"job {self.number} of {self.count}"


SINGLE = Job()


def duration(seconds: float) -> str:
    """Return e.g. "25 s", "3 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shown_path(path: Path) -> str:
    """Return a path relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def progress(job: Job) -> ProgressBar:
    """Return the bar for one run on a terminal; else lines, which do not write over each other."""
    return ProgressLines(job) if job.count > 1 or not sys.stdout.isatty() else DrawnBar()


class ProgressLines(ProgressBar):
    """Say which epoch has been reached and how long training will still take, at most every `seconds`.

    The time left is that of the training since its first batch, continued. The first batch is left out because it
    compiles. For a sweep, every later job is assumed to take as long as this one.
    """

    def __init__(self, job: Job = SINGLE, seconds: float = SECONDS_PER_LINE) -> None:
        super().__init__()
        self.job, self.seconds = job, seconds

    def disable(self) -> None:
        """Lightning disables the bars of all processes but the first; a run here is one process."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the clock to the start; the first batch sets it anew."""
        self.said, self.first = time.monotonic(), None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say it if it is time, and after the last batch of all."""
        done, now = self._epochs(trainer, batch_idx + 1), time.monotonic()
        if self.first is None:
            self.started, self.first = now, done
        if now - self.said >= self.seconds or done == trainer.max_epochs:
            self.said = now
            say(self._line(trainer, done, now - self.started))

    def _epochs(self, trainer: Trainer, batches: int) -> float:
        return trainer.current_epoch + batches / max(1, trainer.num_training_batches)

    def _line(self, trainer: Trainer, done: float, elapsed: float) -> str:
        epochs, place = trainer.max_epochs or -1, f"{self.job}: " if self.job.count > 1 else ""
        text = f"{place}epoch {trainer.current_epoch + 1}" + (f" of {epochs}" if epochs > 0 else "")
        if epochs < 1 or done == self.first < epochs:
            return text
        rate = elapsed / max(done - self.first, 1e-9)
        text += f", {duration(rate * (epochs - done))} left"
        further = self.job.count - self.job.number
        if self.job.in_turn and further:
            text += f"; all jobs: about {duration(rate * (epochs - done + further * epochs))}"
        return text


class DrawnBar(TQDMProgressBar):
    """Lightning's tqdm bar, drawn at most every `seconds` and after the last batch.

    Drawing costs some milliseconds, which is as much as a whole step of a small model.
    """

    def __init__(self, seconds: float = 0.2) -> None:
        super().__init__()
        self.seconds = seconds
        self.drawn = -float("inf")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if it is time."""
        if self._due(batch_idx + 1, self.total_train_batches):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Draw if it is time."""
        if self._due(rest[2] + 1, self.total_val_batches_current_dataloader):
            super().on_validation_batch_end(trainer, pl_module, *rest)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Draw if it is time."""
        if self._due(rest[2] + 1, self.total_test_batches_current_dataloader):
            super().on_test_batch_end(trainer, pl_module, *rest)

    def _due(self, done: int, total: float) -> bool:
        now = time.monotonic()
        if done < total and now - self.drawn < self.seconds:
            return False
        self.drawn = now
        return True


def gamma_cost(net: nn.Module) -> str:
    """Return e.g. "gamma 3/10: 4 bits of side information ..." for a law that costs more than +-1/2; else ""."""
    laws = [module.gamma for module in net.modules() if isinstance(getattr(module, "gamma", None), Discrete)]
    if not laws or laws[0].side_bits < 2 or not laws[0].reversible:
        return ""
    values = ", ".join(dict.fromkeys(str(abs(value)) for value in laws[0].weights))
    bits = laws[0].side_bits
    return f"gamma {values}: {bits} bits of side information per activation and block; 1/2 needs 1"


def _test_results(record: RunRecord) -> str:
    """Return e.g. "test loss 1.589 nat, test accuracy 45.4 %"; "" where nothing was tested."""
    rows = [row for row in record.metrics if row.split == "test"]
    return ", ".join(f"test {row.name} {row.value:.4g} {row.unit}".removesuffix(" 1") for row in rows)


def say_outcome(record: RunRecord, path: Path, run_dir: Path) -> None:
    """Print what came out of a run and where it lies."""
    ends = {"interrupted": ": the same command continues", "diverged": f": {record.error}"}
    say(_test_results(record) or record.status + ends.get(record.status, ""))
    peak = record.final("peak_allocated")
    say(f"{'' if peak is None else f'peak memory {peak:,.1f} MiB, '}time {duration(record.wall_s)}")
    say(f"record: {shown_path(path.resolve())}")
    for name in ("final.ckpt", "last.ckpt"):
        if (run_dir / name).exists() and (name == "final.ckpt") == (record.status == "ok"):
            say(f"checkpoint: {shown_path(run_dir / name)}")
