"""Run jobs as processes of their own, side by side, until they have ended or the time is up."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GRACE = 60.0  # seconds to save a checkpoint and leave a record, once a job is told to end
# A job has one thread: small models use one core far better than several.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@dataclass(frozen=True)
class Command:
    """One job: what is run, and the file that gets what it prints."""

    name: str
    argv: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Ended:
    """How a job ended: its place in the list, its exit code (None: told to end) and the seconds that it took."""

    index: int
    code: int | None
    seconds: float


def run_side_by_side(
    commands: Sequence[Command], workers: int, seconds: float, tell: Callable[[Ended], None]
) -> list[Ended]:
    """Start the commands in order, `workers` at a time; at the deadline, at SIGTERM or at Ctrl-C tell the rest to end.

    A job that is told to end gets SIGTERM, upon which a training run saves its checkpoint; after `GRACE` it is killed.

    Args:
        seconds: from now to the deadline.
        tell: called with each job as it ends.
    Returns:
        The jobs that were started, in the order in which they ended.
    """
    ended: list[Ended] = []
    running: dict[subprocess.Popen, tuple[int, float]] = {}
    waiting = list(range(len(commands)))
    deadline = time.monotonic() + seconds

    def note(process: subprocess.Popen, code: int | None) -> None:
        index, started = running.pop(process)
        ended.append(Ended(index, code, time.monotonic() - started))
        tell(ended[-1])

    with _stopping() as stopped:
        while (waiting or running) and time.monotonic() < deadline and not stopped:
            while waiting and len(running) < workers:
                index = waiting.pop(0)
                running[_start(commands[index])] = index, time.monotonic()
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                note(process, process.returncode)
        for process in running:
            process.terminate()
        last = time.monotonic() + GRACE
        for process in list(running):
            try:
                process.wait(max(0.1, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            note(process, 0 if process.returncode == 0 else None)
    return ended


def _start(command: Command) -> subprocess.Popen:
    """Start a job in a process group of its own, which Ctrl-C does not reach."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("a") as log:
        return subprocess.Popen(
            command.argv, stdout=log, stderr=log, env=os.environ | ENVIRONMENT, start_new_session=True
        )


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of ending at once."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda number, _: seen.append(number)) for number in _SIGNALS}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
