"""A training step traced on tensors without data: its peak memory and its arithmetic, before there is the hardware."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdia import InvalidValueError
from bdia.profiling.fake_results import FakeResults
from bdia.profiling.moments import Moments, Recorder, StepCost
from bdia.profiling.storage_meter import StorageMeter, optimizer_state

DEVICES = ("cuda", "cpu")
_RANGES = (torch.ops.aten.linspace, torch.ops.aten.arange)


class TrainingStep(NamedTuple):
    """What a training step is made of.

    Args:
        model: everything with parameters and buffers.
        optimizer: over parameters of the model.
        batch: tensors that exist before the step and after it.
        run: takes the step: forward, backward, `optimizer.step()`, `optimizer.zero_grad()`; or several, on batches of
            several shapes, and the cost is that of the largest.
        accumulates: gradients of earlier batches are there when the step begins.
    """

    model: nn.Module
    optimizer: Optimizer
    batch: Sequence[Tensor]
    run: Callable[[], object]
    accumulates: bool = False


def trace_step(make_step: Callable[[], TrainingStep], device: str = "cpu") -> StepCost:
    """Return what a training step costs once optimizer state exists; nothing is computed and no memory is taken.

    The tensors are CPU tensors, so kernels and autocast are the CPU's. Only the masks of our dropout are `device`'s.
    Not included: the CUDA context (some 0.5 GiB outside torch), the workspaces of cuBLAS and cuDNN, temporaries inside
    one operation, the allocator's rounding and fragmentation. torch's random state is left as it was.

    Args:
        make_step: builds model, optimizer and batch, and returns them with the step.
        device: "cuda" or "cpu", whose dropout is planned for: on a GPU one byte of mask per entry, on a CPU none of
            large tensors.
    Raises:
        ValueError: another device; the step asks for a tensor's value, which a tensor without data does not have.

    A model of your own, which no memory is needed for (12.8 GB of weights here):

        >>> import torch
        >>> from torch import nn
        >>> from bdia.profiling.traced_step import TrainingStep, trace_step
        >>> def make_step():
        ...     model = nn.Sequential(*[nn.Linear(20_000, 20_000) for _ in range(8)])
        ...     optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        ...     x = torch.randn(64, 20_000)
        ...     def run():
        ...         model(x).square().mean().backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...     return TrainingStep(model, optimizer, [x], run)
        >>> cost = trace_step(make_step)
        >>> print(f"peak {cost.peak / 1e9:.1f} GB, of it parameters {cost.parameters / 1e9:.1f} GB")
        peak 51.2 GB, of it parameters 12.8 GB
    """
    return trace_moments(make_step, device).cost()


def trace_moments(make_step: Callable[[], TrainingStep], device: str = "cpu") -> Moments:
    """Return what is alive after every operation of a step; arguments and errors are those of `trace_step`."""
    with nothing_computed(device):
        return _trace(make_step())


def measured_peak(step: TrainingStep) -> StorageMeter:
    """Take the step twice for real, and return the meter of the second: what `trace_step` predicts."""
    step.run()
    known = [*step.model.parameters(), *step.model.buffers(), *optimizer_state(step.optimizer), *step.batch]
    meter = StorageMeter(known, step.model.parameters())
    with meter:
        step.run()
    return meter


@contextlib.contextmanager
def nothing_computed(device: str) -> Iterator[None]:
    """Inside, tensors have no data (`fake_tensors`) and torch's random state is left as it was.

    Raises:
        ValueError: another device; a tensor's value was asked for.
    """
    with _random_state_kept(), fake_tensors(device):
        try:
            yield
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise InvalidValueError(
                f"the step asks for a tensor's value ({error}), and a traced step has none: build the model, the "
                "optimizer and the step so that shapes and branches depend on shapes only"
            ) from error


@contextlib.contextmanager
def fake_tensors(device: str = "cpu") -> Iterator[None]:
    """Inside, tensors have shapes and sizes but no data: the largest model is built and stepped without memory.

    They say that they lie on the CPU; `bdia.reversible.engine.compiled.planned_device` tells what device they are
    planned for.

    Ranges are real, and so is what is computed from real tensors alone: models read values from them while they are
    built (timm its drop-path rates), optimizers count steps with them.
    """
    if device not in DEVICES:
        raise InvalidValueError(f"device={device}: wanted {' or '.join(DEVICES)}; set device")
    mode = _FakeMode(allow_non_fake_inputs=True)
    mode.planned_device = device
    with warnings.catch_warnings(), mode, _RealConstants(mode):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # deepcopy of one
        yield


class _FakeMode(FakeTensorMode):
    # Asked for every operation, and torch looks for the driver's library every time.
    avoid_device_init = functools.cached_property(FakeTensorMode.avoid_device_init.fget)


class _RealConstants(TorchDispatchMode):
    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._results = FakeResults(mode)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket in _RANGES or _only_real(args, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return self._results.run(func, args, kwargs)


def _only_real(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether there are tensors among the arguments, all of them real. Called for every operation."""
    if any(type(arg) is FakeTensor for arg in args):
        return False
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return bool(tensors) and not any(isinstance(tensor, FakeTensor) for tensor in tensors)


def _trace(step: TrainingStep) -> Moments:
    """Take the step once; the optimizer makes its state in it."""
    if step.accumulates:
        for p in step.model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
    known = [*step.model.parameters(), *step.model.buffers(), *optimizer_state(step.optimizer), *step.batch, *gradients]
    recorder = Recorder(known, step.model.parameters())
    with recorder:
        step.run()
    other = _bytes([*step.batch, *step.model.buffers()])
    return recorder.finished(_bytes(step.model.parameters()), other, optimizer_state(step.optimizer))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        yield
