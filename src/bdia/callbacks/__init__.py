"""Callbacks that measure and never alter training, and the one that writes checkpoints."""

from bdia.callbacks.checkpoint import Checkpoint
from bdia.callbacks.history import History, Measurement, MeasuringCallback
from bdia.callbacks.memory import PeakMemory
from bdia.callbacks.reversibility import ReversibilityCheck
from bdia.callbacks.step_time import StepTimer

__all__ = ["Checkpoint", "History", "Measurement", "MeasuringCallback", "PeakMemory", "ReversibilityCheck", "StepTimer"]
