"""Callbacks that measure and never alter training."""

from bdia.measure.device import describe_device
from bdia.measure.history import History, Measurement, Row
from bdia.measure.memory import PeakMemory
from bdia.measure.reversibility import ReversibilityCheck
from bdia.measure.time import StepTimer

__all__ = ["History", "Measurement", "PeakMemory", "ReversibilityCheck", "Row", "StepTimer", "describe_device"]
