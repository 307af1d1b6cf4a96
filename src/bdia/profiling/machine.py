"""Memory of the machine and of this process, where the system says: Linux, with or without a control group."""

from pathlib import Path


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


def status_bytes(name: str) -> int | None:
    """Return a size of this process, such as "VmData" or "VmRSS"; None where the system has no such file."""
    return _read_kib(Path("/proc/self/status"), name)


def _read_kib(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError):
        return None
