"""Optimizers and learning-rate schedules."""

from bdia.optim.in_backward import in_backward
from bdia.optim.schedule import constant, cosine
from bdia.optim.set_adam import SetAdam

__all__ = ["SetAdam", "constant", "cosine", "in_backward"]
