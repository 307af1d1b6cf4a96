"""A workload as a step to trace or to measure."""

from bdia.profiling.traced_step import TrainingStep, measured_peak

__all__ = ["as_step", "measured_peak"]


def as_step(work):
    """The workload as what `trace_step` reads."""
    return TrainingStep(work.task, work.optimizer, work.batch, work.step)
