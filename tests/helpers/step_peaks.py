"""The measured peak of a real training step, to hold a prediction against."""

from bdia.profiling.storage_meter import StorageMeter, optimizer_state
from bdia.profiling.traced_step import TrainingStep


def as_step(work):
    """The workload as what `trace_step` reads."""
    return TrainingStep(work.task, work.optimizer, work.batch, work.step)


def measured_peak(step):
    """The meter after the second step."""
    step.run()
    state = optimizer_state(step.optimizer)
    meter = StorageMeter(
        [*step.model.parameters(), *step.model.buffers(), *state, *step.batch], step.model.parameters()
    )
    with meter:
        step.run()
    return meter
