"""Learning-rate schedules per optimizer step; a task completes them with (optimizer, total_steps)."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bdia import InvalidValueError


def cosine(optimizer: Optimizer, total_steps: int | float, warmup_steps: int = 0) -> LambdaLR:
    """Rise linearly for `warmup_steps`, then fall along half a cosine to zero at `total_steps`.

    Args:
        total_steps: optimizer steps of the whole training.
        warmup_steps: optimizer steps before the learning rate of the optimizer is reached.
    Raises:
        ValueError: the warm-up leaves no step for the cosine; the training has no known length (infinity).
    """
    if math.isinf(total_steps):
        raise InvalidValueError(
            "scheduler=cosine falls to zero at the training's end, which is not known; set trainer.max_epochs or "
            "trainer.max_steps, or scheduler=constant"
        )
    if not 0 <= warmup_steps < total_steps:
        raise InvalidValueError(
            f"warm-up of {warmup_steps} in {total_steps} steps, wanted 0 <= warm-up < steps; "
            "change scheduler.warmup_steps or trainer.max_epochs"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int | float) -> LambdaLR:
    """Keep the learning rate of the optimizer; `total_steps` is there for the common signature."""
    return LambdaLR(optimizer, lambda step: 1.0)
