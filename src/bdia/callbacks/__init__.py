"""Callbacks that measure and never alter training; one that writes checkpoints, one that ends a bad training."""

from bdia.callbacks.checkpoint import Checkpoint
from bdia.callbacks.divergence import DivergedError, Divergence
from bdia.callbacks.history import History, Measurement, MeasuringCallback
from bdia.callbacks.memory import PeakMemory
from bdia.callbacks.reversibility import ReversibilityCheck
from bdia.callbacks.step_time import StepTimer

__all__ = [
    "Checkpoint",
    "DivergedError",
    "Divergence",
    "History",
    "Measurement",
    "MeasuringCallback",
    "PeakMemory",
    "ReversibilityCheck",
    "StepTimer",
]
