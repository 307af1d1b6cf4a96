"""A training step traced on tensors without data: its peak memory and its arithmetic, before there is the hardware."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from bdia.profiling.flops import count_flops
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


@dataclass(frozen=True)
class StepCost:
    """Bytes at the moment of a step's peak, by category, and the step's arithmetic.

    Args:
        peak: the sum of the five categories.
        parameters, gradients, optimizer: of the model; gradients are those alive at the peak.
        activations: what is left: stored and recomputed activations, their gradients, temporaries, side information.
        other: the batch and the model's buffers.
        held: bytes of activations held when the backward pass begins.
        flops: floating-point operations of matrix products, convolutions and attention; of nothing else.
    """

    peak: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    other: int
    held: int
    flops: int


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
    with _random_state_kept(), fake_tensors(device):
        try:
            return _trace(make_step())
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
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.planned_device = device
    with warnings.catch_warnings(), mode, _RealConstants():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # deepcopy of one
        yield


class _RealConstants(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket in _RANGES or _only_real(args, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _only_real(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether there are tensors among the arguments, all of them real. Called for every operation."""
    if any(type(arg) is FakeTensor for arg in args):
        return False
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return bool(tensors) and not any(isinstance(tensor, FakeTensor) for tensor in tensors)


class _Tracer(StorageMeter):
    """The meter. It also counts FLOPs, and separates what precedes the optimizer's step from what follows."""

    def __init__(self, known: Iterable[Tensor], parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(known, parameters)
        self.before, self.held, self.flops, self.backward = self.alive, 0, 0, False
        self.phases: list[tuple[int, int, int]] = []  # up to each optimizer step: peak, gradients at it, its state

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        backward = torch._C._current_graph_task_id() != -1
        if backward and not self.backward:
            self.held = max(self.held, self.alive - self.before)
        self.backward = backward
        results = super().__torch_dispatch__(func, types, args, kwargs)
        self.flops += count_flops(func, args, kwargs or {}, results)
        return results

    def end_phase(self, optimizer: Optimizer, *_: Any) -> None:
        self.phases.append((self.peak, self.gradients_at_peak, _bytes(optimizer_state(optimizer))))
        self.peak = self.gradients_at_peak = 0


def _trace(step: TrainingStep) -> StepCost:
    """Take the step once. The optimizer makes its state in it, so that state is added to what was measured before."""
    if step.accumulates:
        for p in step.model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
    known = [*step.model.parameters(), *step.model.buffers(), *optimizer_state(step.optimizer), *step.batch, *gradients]
    tracer = _Tracer(known, step.model.parameters())
    hook = step.optimizer.register_step_pre_hook(tracer.end_phase)
    with tracer:
        step.run()
    hook.remove()
    tracer.end_phase(step.optimizer)
    state = _bytes(optimizer_state(step.optimizer))
    peak, gradients = max((peak + state - made, gradients) for peak, gradients, made in tracer.phases)
    sizes = {
        "parameters": _bytes(step.model.parameters()),
        "gradients": gradients,
        "optimizer": state,
        "other": _bytes([*step.batch, *step.model.buffers()]),
    }
    return StepCost(peak, activations=peak - sum(sizes.values()), held=tracer.held, flops=tracer.flops, **sizes)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        yield
