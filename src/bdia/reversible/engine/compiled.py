"""Functions that write their results into given tensors, as one kernel of torch.compile where a compiler works.

Everything that outlives the kernel is made by its caller, so nothing that watches allocations misses any. To the fake
tensors of a planner (`bdia.profiling.traced_step.fake_tensors`) a kernel does nothing, as if a compiler were there.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from bdia import UnsupportedError
from bdia.reversible.engine.memory_errors import out_of_memory

# Smallest tensor, in elements, for which compiling pays. Compiling a function takes about 20 s once on a machine, then
# 4 s in every process. For a BDIA update and its inverse it saved, at commit 5ddbbb1 on two cores, about 4 ms at
# 133,000 elements and 1 to 2 ms at 33,000.
COMPILE_FROM = 3 * 2**15
KERNELS_AT_MOST = 64  # of one function in a process; torch's own limit is 8

_broken: set[tuple[Callable[..., None], str]] = set()  # function, device: compiling failed once


class CompilerWarning(UserWarning):
    """torch.compile does not work here; eager operations give the same bits."""


def planned_device(x: Tensor) -> str | None:
    """Return the type of the device that a planner's fake tensor stands for, None of any other tensor."""
    return getattr(getattr(x, "fake_mode", None), "planned_device", None)


def worth_compiling(out: Tensor) -> bool:
    """Whether `out` is so large that a kernel to write it pays."""
    return out.numel() >= COMPILE_FROM


def run_compiled(function: Callable[..., None], out: Tensor, *arguments: object, required: bool = False) -> bool:
    """Run function(out, *arguments), which writes `out`, as one kernel.

    Args:
        arguments: tensors, and tuples of them; some may be written too.
        required: a compiler that fails is an error, not a warning.
    Returns:
        Whether it ran; if not, the caller's eager operations give the same bits: the compiler failed, now or before,
        or `out` is a tracer's stand-in for a tensor.
    Raises:
        RuntimeError: the compiler failed and is required. MemoryError and the like: as they come.
    """
    if planned_device(out) is not None:
        return True
    device = out.device.type
    if type(out) is not Tensor or (not required and (function, device) in _broken):
        return False
    try:
        # A mode that watches or replaces operations could not see into the kernel, and stops the compiler.
        with torch.no_grad(), _disable_current_modes():
            _compiled(function, device)(out, *arguments)
    except Exception as error:  # whatever compilers raise: there are as many kinds as compilers
        if out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or [""])[0][:200]
        reason = f"torch.compile fails here ({type(error).__name__}: {said})"
        if required:
            raise UnsupportedError(f"{reason}: set stack.kernel=eager, which gives the same bits") from error
        _broken.add((function, device))
        warnings.warn(
            f"{reason}; eager operations take over, slower, with the same bits (a stack's own: stack.kernel=eager)",
            CompilerWarning,
            3,
        )
        return False
    return True


@functools.cache
def _compiled(function: Callable[..., None], device: str) -> Callable[..., None]:
    # Without these limits the compiler writes intermediate tensors out, and the pass becomes three.
    options: dict[str, Any] = {"realize_opcount_threshold": 10**4, "realize_reads_threshold": 10**4}
    if device == "cuda":  # a fused multiply-add would change bits: Triton is told so, the CPU's compiler makes none
        options["emulate_precision_casts"] = True
    settings: dict[str, Any] = {"dynamic": True, "fullgraph": True, "options": options}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # torch 2.14; one kernel per law, dtype, ...
        settings["recompile_limit"] = KERNELS_AT_MOST
    kernel: Callable[..., None] = torch.compile(function, **settings)
    return kernel
