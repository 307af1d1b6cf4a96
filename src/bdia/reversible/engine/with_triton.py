"""Whether the kernels written in Triton can run here, and their calls. Triton is imported at the first one."""

import functools
import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from bdia import UnsupportedError
from bdia.reversible.engine.compiled import planned_device

HINT = "set stack.kernel=auto, compiled or eager, which give the same bits"


def run_triton(name: str, out: Tensor, *arguments: object) -> bool:
    """Run a kernel of `triton_kernels` by its name. Return True: it ran, or `out` is a planner's fake tensor.

    Raises:
        RuntimeError: no Triton here, or none for the device of `out`.
    """
    if planned_device(out) is not None:
        return True
    kernels = _kernels()
    if out.device.type != "cuda" and not interpreted():
        raise UnsupportedError(
            f"kernel='triton': Triton has no kernels for tensors on {out.device.type}; {HINT}. (TRITON_INTERPRET=1 in "
            "the environment runs them there in its interpreter, very slowly, for tests)"
        )
    with torch.no_grad():
        getattr(kernels, name)(out, *arguments)
    return True


def triton_partial_results(x_next: Tensor) -> tuple[tuple[int, int], torch.dtype]:
    """Return the shape of an update's largest magnitudes and sums of bits, and the dtype of the sums."""
    return (len(x_next), _kernels().programs(x_next)), torch.int64


def interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter, on any device."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


@functools.cache
def _kernels() -> ModuleType:
    if importlib.util.find_spec("triton") is None:
        raise UnsupportedError(f"kernel='triton': the package triton is not installed (torch for Linux has it); {HINT}")
    from bdia.reversible.engine import triton_kernels

    return triton_kernels
