"""Optimizers and learning-rate schedules."""

from bdia.optim.float32_master import Float32Master
from bdia.optim.in_backward import in_backward
from bdia.optim.schedule import constant, cosine
from bdia.optim.set_adam import SetAdam

__all__ = ["Float32Master", "SetAdam", "constant", "cosine", "in_backward"]
