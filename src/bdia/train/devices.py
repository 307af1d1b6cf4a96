"""Several devices: one process for each, started by torchrun's agent, srun or torchrun itself."""

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from bdia import UnsupportedError
from bdia.build.together import device_count
from bdia.data.ranks import rank_of_environment
from bdia.train.shares import save_shares


def is_alone_or_first(trainer: Mapping[str, Any]) -> bool:
    """Tell whether this process writes: the only one of a run, or the first of its processes."""
    return world_size(trainer) == 1 or not rank_of_environment()


def world_size(trainer: Mapping[str, Any]) -> int:
    """Return the number of processes of a run: devices of a node times nodes."""
    return device_count(trainer) * int(trainer.get("num_nodes", 1))


def must_start(trainer: Mapping[str, Any]) -> bool:
    """Tell whether a run of several devices still lacks its processes.

    Raises:
        UnsupportedError: several nodes, and no launcher has started the processes.
    """
    if world_size(trainer) == 1 or rank_of_environment() is not None:
        return False
    if int(trainer.get("num_nodes", 1)) > 1:
        raise UnsupportedError(
            f"trainer.num_nodes={trainer['num_nodes']}: wanted one process a device, started on every node by srun or "
            "torchrun (docs/scaling.md), or trainer.num_nodes=1"
        )
    return True


def start(overrides: Sequence[str], count: int) -> None:
    """Start one process a device of this machine with the same command, and wait for them.

    If one fails, the others are ended. SIGTERM and Ctrl-C reach all of them.

    Raises:
        SystemExit: the exit code of the process that failed first; 128 and the signal's number after a signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what went wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.2,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "bdia.train", *overrides)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)
    except SignalException as error:
        sys.exit(128 + error.sigval)


def follower_overrides(trainer: Mapping[str, Any]) -> list[str]:
    """Return what keeps Hydra of all processes but the first from writing logs and configs of its own."""
    if is_alone_or_first(trainer):
        return []
    return ["hydra.output_subdir=null", "hydra/job_logging=stdout"]


def strategy(name: str, count: int, in_shares: bool = False) -> Strategy | str:
    """Return Lightning's strategy of the name; fsdp2 shares each weight out over all `count` processes.

    Args:
        in_shares: write checkpoints in shares; otherwise as one file. Either can be read by any number of devices.
    """
    if name == "ddp":
        return DDPStrategy()
    if name in ("fsdp2", "fsdp2_no_sync"):
        kind = Sharded if name == "fsdp2" else LateReduction
        return kind(data_parallel_size=count, tensor_parallel_size=1, save_distributed_checkpoint=in_shares)
    return name


class Sharded(ModelParallelStrategy):
    """FSDP2; a checkpoint in shares is written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write it; all processes call it."""
        if self._save_distributed_checkpoint:
            save_shares(checkpoint, Path(self.broadcast(filepath)))
        else:
            super().save_checkpoint(checkpoint, filepath, storage_options)


class LateReduction(Sharded):
    """FSDP2 that exchanges gradients once an optimizer step; until then each process holds its own, whole."""

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Exchange no gradients in a backward inside; Lightning enters it for all batches of a step but the last."""
        task = self.lightning_module
        net, task.holds_back = task.net, True
        net.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            net.set_requires_gradient_sync(True)


def joined_start(trainer: Trainer, task: LightningModule, start: Path | None) -> Path | None:
    """Join the processes of a run, and return the checkpoint that the first of them found."""
    if trainer.world_size == 1:
        return start
    trainer.strategy.connect(task)  # fsdp2 tells the task its mesh
    trainer.strategy.setup_environment()
    return trainer.strategy.broadcast(start)
