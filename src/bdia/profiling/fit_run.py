"""`stack.memory_budget` of a training run: the blocks to keep, for its own model, optimizer and largest batch."""

import torch
from omegaconf import DictConfig

from bdia.data.module import DataModule
from bdia.profiling.fit import Fit, fit_to_memory
from bdia.profiling.traced_step import TrainingStep
from bdia.profiling.workload import Workload
from bdia.tasks import Task


def fit_run_to_memory(cfg: DictConfig, data: DataModule, task: Task, on_cuda: bool) -> Fit:
    """Set `keep` of the task's stacks to what `cfg.stack.memory_budget` has room for.

    Args:
        data: prepared here, if nothing has done so yet.
        on_cuda: the data set lies on the device, and in its peak, too.
    Raises:
        ValueError: not even keep=0 fits; a precision without a traced step.
    """
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    shapes = [[(tensor.shape, tensor.dtype) for tensor in batch] for batch in loader.largest()]
    accumulates = int(cfg.trainer.accumulate_grad_batches) > 1

    def make_step(copy: Task) -> TrainingStep:
        batches = [tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in batch) for batch in shapes]
        work = Workload.of(copy, batches[0], cfg.trainer.precision, accumulates)

        def run() -> None:
            for work.batch in batches:
                work.step()

        return TrainingStep(copy, work.optimizer, [tensor for batch in batches for tensor in batch], run, accumulates)

    if on_cuda:
        return fit_to_memory(task, make_step, reserved=loader.resident_bytes, device="cuda")
    return fit_to_memory(task, make_step, device="cpu")
