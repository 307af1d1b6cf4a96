"""Peak memory of one training step by category. Never the process's resident size: glibc keeps what torch has freed."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from bdia import InvalidValueError
from bdia.callbacks.history import Measurement, MeasuringCallback
from bdia.data.ranks import gathered, local_part
from bdia.profiling.sizes import MIB
from bdia.profiling.storage_meter import StorageMeter, optimizer_state

OF_EACH_RANK = ("peak_allocated", "peak_reserved", "peak_activations", "model_state", "side_information")


class PeakMemory(MeasuringCallback):
    """Peak memory through forward, backward and optimizer step of one batch, after a warm-up.

    CUDA: the allocator's own maximum after a reset. CPU: exact accounting of every storage that the step's operations
    allocate (`StorageMeter`). Both include parameters and optimizer state, as the paper does. On CUDA the total also
    includes the resident data set, which is recorded beside it. Activations are what is left: stored and recomputed
    activations, their gradients and temporaries, side information (and, on CUDA, parameter gradients at the peak).
    On the CPU what a module with a `memory_category` allocates (the loss head: logits, the gradients it makes) is
    recorded under that name as well; it is part of the activations.
    Where the law of gamma changes the bits of side information during training (`Ramp`), the batch after each change is
    measured too: rows of a later step. Batches of another size are not.
    With several devices every process measures; the rows are those of the one with the highest peak, and each has its
    own beside them ("rank 1").

    Args:
        at_batch: the batch measured, counted from the start of training; at least 1, so that optimizer state exists
            (with accumulated gradients, at least their number of batches).
    """

    def __init__(self, at_batch: int = 1) -> None:
        super().__init__()
        if at_batch < 1:
            raise InvalidValueError(
                f"at_batch={at_batch}: wanted at least 1, after a warm-up; set callbacks.peak_memory.at_batch"
            )
        self.at_batch = at_batch
        self.meter: StorageMeter | None = None
        self.hooks: list[Any] = []
        self.stacks: list[Any] = []  # that draw gamma
        self.side_bits: list[int] | None = None  # of these stacks, when memory was measured
        self.is_on = False

    def state_dict(self) -> dict[str, Any]:
        """Save the rows and what they were measured with."""
        return super().state_dict() | {"side_bits": self.side_bits}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them; a checkpoint of an older version has the rows alone."""
        super().load_state_dict(state_dict)
        self.side_bits = state_dict.get("side_bits")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the stacks whose side information may change."""
        self.stacks = [stack for stack in pl_module.modules() if hasattr(getattr(stack, "gamma", None), "side_bits")]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start measuring if this is the batch, or the first after a change of the bits per activation."""
        has_changed = self.side_bits not in (None, self._side_bits())
        self.is_on = has_changed or trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1 == self.at_batch
        if not self.is_on:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif pl_module.device.type == "cpu":
            state = [tensor for optimizer in trainer.optimizers for tensor in optimizer_state(optimizer)]
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]  # of earlier batches
            held = [*pl_module.parameters(), *pl_module.buffers(), *gradients, *state, *batch]
            known = map(local_part, held)
            self.meter = StorageMeter(known, pl_module.parameters())
            self.hooks = book_categories(pl_module, self.meter)
            self.meter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the peak."""
        if not self.is_on:
            return
        self.is_on, side_bits = False, self._side_bits()
        if pl_module.device.type == "cuda":
            found = self._on_cuda(trainer, pl_module, batch)
        elif self.meter is not None:
            found = self._on_cpu(trainer, pl_module, batch)
        else:
            return
        if self.rows and self.rows[-1].step == trainer.global_step:  # gradients are accumulated; the next batch, then
            return
        ranks = gathered(found)
        largest = max(ranks, key=lambda rank: rank["peak_allocated"])
        new = [Measurement(name, value / MIB, None, trainer.global_step) for name, value in largest.items()]
        if len(ranks) > 1:
            new += [
                Measurement(name, each[name] / MIB, f"rank {rank}", trainer.global_step)
                for rank, each in enumerate(ranks)
                for name in OF_EACH_RANK
                if name in each
            ]
        self.rows += new
        self.side_bits = side_bits
        self.draw(trainer, new)

    def _side_bits(self) -> list[int]:
        """Return the bits of side information per activation, of each stack in its last pass."""
        return [stack.gamma.side_bits for stack in self.stacks]

    def _on_cuda(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, int]:
        """Return the allocator's peak and its parts, in bytes."""
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        fixed = _fixed(trainer, pl_module)
        inputs = fixed["resident_data"] + _inputs(pl_module, batch)
        activations = peak - fixed["peak_parameters"] - fixed["peak_optimizer"] - inputs
        return {
            "peak_allocated": peak,
            "peak_reserved": torch.cuda.max_memory_reserved(),
            "activation_peak": activations,
            "peak_activations": activations,
            "peak_other": inputs,
            **fixed,
        }

    def _on_cpu(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, int]:
        """Return the meter's peak and its parts, in bytes."""
        meter = self._leave()
        peak, gradients = meter.peak, meter.gradients_at_peak
        fixed, inputs = _fixed(trainer, pl_module), _inputs(pl_module, batch)
        activations = peak - fixed["peak_parameters"] - fixed["peak_optimizer"] - gradients - inputs
        return {
            "peak_allocated": peak,
            "activation_peak": activations,
            "peak_gradients": gradients,
            "peak_activations": activations,
            "peak_other": inputs,
            **{f"peak_{name}": size for name, size in meter.owned_at_peak.items()},
            **fixed,
        }

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the meter, which sees every operation while it is on."""
        if self.meter is not None:
            self._leave()

    def _leave(self) -> StorageMeter:
        meter, self.meter = self.meter, None
        meter.__exit__(None, None, None)
        for hook in self.hooks:
            hook.remove()
        return meter


def _fixed(trainer: Trainer, model: LightningModule) -> dict[str, int]:
    """Return the bytes that are the same at every moment of the step."""
    weights = sum(local_part(p).nbytes for p in model.parameters())
    optimizer = sum(local_part(tensor).nbytes for each in trainer.optimizers for tensor in optimizer_state(each))
    return {
        "peak_parameters": weights,
        "peak_optimizer": optimizer,
        "model_state": weights + sum(local_part(p).nbytes for p in model.parameters() if p.requires_grad) + optimizer,
        "side_information": sum(getattr(module, "side_bytes", 0) for module in model.modules()),
        "resident_data": getattr(trainer.train_dataloader, "resident_bytes", 0),
    }


def _inputs(model: LightningModule, batch: Any) -> int:
    return sum(tensor.nbytes for tensor in [*batch, *model.buffers()])


def book_categories(model: nn.Module, meter: StorageMeter) -> list[Any]:
    """Name, in the meter, what modules with a `memory_category` allocate in forward and backward."""

    def owner(name: str | None) -> Callable[..., None]:
        def note(*_: Any) -> None:
            meter.owner = name

        return note

    hooks = []
    for module in model.modules():
        if (name := getattr(module, "memory_category", None)) is not None:
            hooks += [module.register_forward_pre_hook(owner(name)), module.register_forward_hook(owner(None))]
            hooks += [module.register_full_backward_pre_hook(owner(name))]
            hooks += [module.register_full_backward_hook(owner(None))]
    return hooks
