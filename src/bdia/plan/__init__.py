"""What a training step will need, before it runs: `python -m bdia.plan`, and `fit_to_memory` for models of your own."""

from bdia.measure.traced_step import StepCost, TrainingStep, trace_step
from bdia.plan.fit import Fit, fit_to_memory

__all__ = ["Fit", "StepCost", "TrainingStep", "fit_to_memory", "trace_step"]
