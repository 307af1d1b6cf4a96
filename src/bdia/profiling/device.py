"""What a run runs on: the device that was asked for, and its description for a record."""

import platform
from pathlib import Path
from typing import Any

import torch

from bdia import InvalidValueError


def describe_device(accelerator: str) -> dict[str, Any]:
    """Return the record's "device" for one device of Lightning's `accelerator` ("auto", "cpu", "gpu")."""
    on_gpu = torch.cuda.is_available() and accelerator != "cpu"
    return {
        "name": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
        "count": 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
    }


def read_device(name: str) -> torch.device:
    """Return the device.

    Raises:
        ValueError: it does not exist here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InvalidValueError(f"device={name}: wanted cpu, or cuda with a CUDA GPU; set device") from error


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
