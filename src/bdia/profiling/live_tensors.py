"""What is alive at the peak: bytes by the module that made them and by what they are. `bdia profile` prints it."""

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bdia.profiling.storage_meter import StorageMeter
from bdia.profiling.workload import Workload
from bdia.reversible import BlockStack

SUM = "sum of a weight's gradient over parts"
# What the engine allocates, by the function that does; a file of src/bdia/reversible/engine, a name, what it is.
ENGINE = {
    ("passes.py", "_on_grid"): "residual stream",
    ("kernels.py", "update_kernel"): "residual stream",
    ("kernels.py", "inverse_kernel"): "temporary of the inverse",
    ("kernels.py", "gradient_kernel"): "gradient of a residual stream",
    ("kernels.py", "scaled"): "gradient of a block's output",
    ("tiling.py", "add"): SUM,
}
END = "_engine_run_backward"  # the frame that starts a backward: frames outside are the caller's


class Origin(NamedTuple):
    """Where a storage was made.

    Args:
        owner: name of the innermost module that was running, "" for none.
        what: the engine's name for it, a weight's gradient, or the operation.
        when: "forward", "recomputation" or "backward".
    """

    owner: str
    what: str
    when: str


class LiveTensors(StorageMeter):
    """A meter whose `owned_at_peak` says of every byte at the peak where it was made.

    Gradients of weights that are added up over parts (`stack.tile`) are not counted: they become `.grad`.

    Args:
        model: whose modules have names.
        known: as in `StorageMeter`; they have no origin.
    """

    def __init__(self, model: nn.Module, known: Iterable[Tensor]) -> None:
        super().__init__(known, model.parameters())
        self._modules = dict(model.named_modules())
        self._names = {module: name for name, module in self._modules.items()}
        self._running: list[str] = []
        self._owners: dict[int, str] = {}  # of the nodes of the graph, by their number
        self._hooks: list[Any] = []

    def __enter__(self) -> "LiveTensors":
        """Follow which module is running, too."""
        enter = register_module_forward_pre_hook(lambda module, _: self._running.append(self._names.get(module, "")))
        leave = register_module_forward_hook(lambda *_: (self._running.pop(), None)[1], always_call=True)
        self._hooks = [enter, leave]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop following."""
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _book(self, func: Any, tensor: Tensor) -> None:
        self.owner = self._origin(func, tensor)  # type: ignore[assignment] # any hashable names an owner
        super()._book(func, tensor)

    def _add(self, entry: Any, size: int) -> None:
        if entry.owner is not None and entry.owner.what == SUM:
            entry.size += size
        else:
            super()._add(entry, size)

    def _origin(self, func: Any, tensor: Tensor) -> Origin:
        role, when = _caller(sys._getframe(1))
        node = torch._C._current_autograd_node()
        owner = self._running[-1] if self._running else ""
        if owner and when == "forward":
            self._owners[torch._C._autograd._get_sequence_nr() - 1] = owner
        elif not owner and node is not None:
            owner = self._owners.get(node._sequence_nr(), "")
        what = role or self._weight(owner, tensor, when) or func._overloadpacket.__name__
        return Origin(owner, "packed residues" if role and tensor.dtype == torch.uint8 else what, when)

    def _weight(self, owner: str, tensor: Tensor, when: str) -> str:
        """Return which weight of its owner's has this gradient's shape, "" for none."""
        if not owner or when != "backward":
            return ""
        weights = self._modules[owner].named_parameters()
        return next((f"gradient of {name}" for name, p in weights if p.shape in (tensor.shape, tensor.shape[::-1])), "")


def _caller(frame: FrameType | None) -> tuple[str, str]:
    """Return the engine's name for what is made, and when; reads no frame's variables, which would keep them alive."""
    role, again = "", False
    while frame is not None and frame.f_code.co_name != END:
        code = frame.f_code
        again |= code.co_name == "recompute_fn"
        role = role or ENGINE.get((code.co_filename.rpartition("/")[2], code.co_name), "")
        frame = frame.f_back
    return role, "recomputation" if again else "backward" if frame is not None else "forward"


def peak_of(workload: Workload) -> tuple[int, dict[Origin, int], int]:
    """Run one forward and backward of a workload; each weight's gradient is dropped when it is whole.

    Returns:
        bytes alive at the peak beside weights, buffers and batch; what they are; bytes of one float32 residual stream
        of the first stack, 0 where there is none.
    """
    task, streams = workload.task, [0]
    known = [*task.parameters(), *task.buffers(), *workload.batch]
    meter = LiveTensors(task, known)
    before = meter.total()
    for parameter in task.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    for stack in [module for module in task.modules() if isinstance(module, BlockStack)][:1]:
        stack.register_forward_pre_hook(lambda _, args: streams.append(4 * args[0].numel()))
    with meter:
        workload.loss().backward()
    made = {origin: size for origin, size in meter.owned_at_peak.items() if isinstance(origin, Origin)}
    return meter.peak - before, made, streams[-1]
