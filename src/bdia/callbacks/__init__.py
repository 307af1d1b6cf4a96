"""Callbacks that measure and never alter training."""

from bdia.callbacks.history import History, Measurement, MeasuringCallback
from bdia.callbacks.memory import PeakMemory
from bdia.callbacks.reversibility import ReversibilityCheck
from bdia.callbacks.step_time import StepTimer

__all__ = ["History", "Measurement", "MeasuringCallback", "PeakMemory", "ReversibilityCheck", "StepTimer"]
