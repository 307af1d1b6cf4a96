"""A ceiling for this process's memory on a CPU, so that a step that does not fit is an error, no killed process."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

SHARE = 0.95  # of the free memory


@contextlib.contextmanager
def memory_ceiling(device: torch.device) -> Iterator[None]:
    """Inside, allocations beyond what is free now fail at once, if the device is a CPU.

    Does nothing where the system does not say what is free (no Linux).

    Without it Linux grants more than there is and then kills the process.
    """
    free, used = free_bytes(), _status_bytes("VmData")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if device.type == "cpu" and free is not None and used is not None:
        ceiling = used + int(SHARE * free)
        hard = before[1]
        soft = ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def free_bytes() -> int | None:
    """Return the bytes this process may still take: what the machine has, or less where its control group says so."""
    machine = _read_kib(Path("/proc/meminfo"), "MemAvailable")
    group = _group_bytes()
    known = [value for value in (machine, group) if value is not None]
    return min(known, default=None)


def _group_bytes() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group of version 2, or "max"
        return None
    return limit - used + int(statistics.get("inactive_file", 0))  # cached files give way


def _status_bytes(name: str) -> int | None:
    return _read_kib(Path("/proc/self/status"), name)


def _read_kib(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError):
        return None
