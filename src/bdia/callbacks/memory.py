"""Peak memory of one training step by category. Never the process's resident size: glibc keeps what torch has freed."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from bdia import InvalidValueError
from bdia.callbacks.history import Measurement, MeasuringCallback
from bdia.profiling.sizes import MIB
from bdia.profiling.storage_meter import StorageMeter, optimizer_state


class PeakMemory(MeasuringCallback):
    """Peak memory through forward, backward and optimizer step of one batch, after a warm-up.

    CUDA: the allocator's own maximum after a reset. CPU: exact accounting of every storage that the step's operations
    allocate (`StorageMeter`). Both include parameters and optimizer state, as the paper does. On CUDA the total also
    includes the resident data set, which is recorded beside it. Activations are what is left: stored and recomputed
    activations, their gradients and temporaries, side information (and, on CUDA, parameter gradients at the peak).
    On the CPU what a module with a `memory_category` allocates (the loss head: logits, the gradients it makes) is
    recorded under that name as well; it is part of the activations.

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

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start measuring if this is the batch."""
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1 != self.at_batch:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif pl_module.device.type == "cpu":
            state = [tensor for optimizer in trainer.optimizers for tensor in optimizer_state(optimizer)]
            known = [*pl_module.parameters(), *pl_module.buffers(), *state, *batch]
            self.meter = StorageMeter(known, pl_module.parameters())
            self.hooks = book_categories(pl_module, self.meter)
            self.meter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the peak."""
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1 != self.at_batch:
            return
        weights = sum(p.nbytes for p in pl_module.parameters())
        optimizer = sum(tensor.nbytes for each in trainer.optimizers for tensor in optimizer_state(each))
        state = weights + sum(p.nbytes for p in pl_module.parameters() if p.requires_grad) + optimizer
        resident = getattr(trainer.train_dataloader, "resident_bytes", 0)
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            inputs = resident + sum(tensor.nbytes for tensor in [*batch, *pl_module.buffers()])
            activations = peak - weights - optimizer - inputs
            found = {
                "peak_reserved": torch.cuda.max_memory_reserved(),
                "activation_peak": activations,
                "peak_parameters": weights,
                "peak_optimizer": optimizer,
                "peak_activations": activations,
                "peak_other": inputs,
            }
        elif self.meter is not None:
            meter = self._leave()
            peak, gradients = meter.peak, meter.gradients_at_peak
            inputs = sum(tensor.nbytes for tensor in [*batch, *pl_module.buffers()])
            activations = peak - weights - optimizer - gradients - inputs
            found = {
                "activation_peak": activations,
                "peak_parameters": weights,
                "peak_gradients": gradients,
                "peak_optimizer": optimizer,
                "peak_activations": activations,
                "peak_other": inputs,
                **{f"peak_{name}": size for name, size in meter.owned_at_peak.items()},
            }
        else:
            return
        found |= {
            "peak_allocated": peak,
            "model_state": state,
            "side_information": sum(getattr(module, "side_bytes", 0) for module in pl_module.modules()),
            "resident_data": resident,
        }
        self.rows = [Measurement(name, value / MIB, None, trainer.global_step) for name, value in found.items()]

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
