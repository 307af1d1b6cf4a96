"""Signals that end a training at a batch: SIGTERM, and those with which a cluster takes a job off its machine.

SLURM sends SIGUSR1 or SIGUSR2 some time before a job has to go (`sbatch --signal=USR1@120`, submitit's
`signal_delay_s`). The run writes its checkpoint and hands the job back to the queue. Started again, it goes on at the
same batch.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bdia.data.ranks import largest_of_ranks, rank_of_environment
from bdia.results.output import say_on_stderr

REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
ORDER = (None, signal.SIGTERM, *REQUEUE)  # of several signals, also in several processes, the last one counts
PATIENCE = 60  # seconds that scontrol may take


class RequeueException(SIGTERMException):
    """A training ended because its job is to be queued again; `signum` asked for it."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__()
        self.signum = signum


class Stopping:
    """Notes the signals while a model trains; `Resume` ends all processes at the same batch.

    Lightning's own handlers talk to the other processes, or write a checkpoint, from inside the handler: in the middle
    of a step, or of another exchange.
    """

    def __init__(self) -> None:
        self.noted = 0  # place in ORDER

    def listen(self, trainer: Trainer) -> None:
        """Take the place of the handlers; Lightning puts them back when the training has ended.

        SIGTERM for one process stays with Lightning, whose way out of it is the same.
        """
        alone = trainer.world_size == 1

        def note(number: int, *_: Any) -> None:
            self.noted = max(self.noted, ORDER.index(signal.Signals(number)))
            if alone:
                trainer._signal_connector.received_sigterm = True  # validation ends too, as after SIGTERM

        for number in REQUEUE if alone else ORDER[1:]:
            signal.signal(number, note)

    def leave_at_once(self) -> None:
        """In the test there is nothing to save: the training's end is on the disk."""

        def leave(number: int, *_: Any) -> None:
            raise RequeueException(signal.Signals(number))

        for number in REQUEUE:
            signal.signal(number, leave)

    def agree(self, trainer: Trainer) -> bool:
        """Tell whether a process has noted a signal; all processes have to ask, and then note the same."""
        self.noted = largest_of_ranks(self.noted, trainer.strategy.root_device)
        return self.noted > 0

    def raise_requeue(self) -> None:
        """Raise a RequeueException if the job is to be queued again."""
        if (signum := ORDER[self.noted]) in REQUEUE:
            raise RequeueException(signum)


def queue_again(signum: signal.Signals) -> None:
    """Hand a job back to its queue, after its training has ended because of the signal.

    submitit's handler, in whose job this is, does so itself and ends the process. Another job of SLURM is handed to
    `scontrol requeue`, by its first process. Outside a cluster there is no queue: the same command goes on.

    Raises:
        SystemExit: from submitit.
    """
    handler = signal.getsignal(signum)
    if callable(handler):
        handler(signum, None)
    job = _slurm_job()
    if job is None or rank_of_environment():
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        say_on_stderr(f"scontrol could not queue job {job} again ({error}): give the same command, it goes on")


def _slurm_job() -> str | None:
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job


def slurm_plugins() -> Sequence[SLURMEnvironment]:
    """Return Lightning's SLURM without its own requeueing, where Lightning would find SLURM."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]
