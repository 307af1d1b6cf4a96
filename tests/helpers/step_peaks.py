"""The measured peak of a real training step, to hold a prediction against."""

from bdia.profiling.storage_meter import StorageMeter
from bdia.profiling.traced_step import TrainingStep


def as_step(work):
    """The workload as what `trace_step` reads."""
    return TrainingStep(work.task, work.optimizer, work.batch, work.step)


def measured_peak(step):
    """The meter after the second step."""
    step.run()
    state = [value for held in step.optimizer.state.values() for value in held.values() if hasattr(value, "nbytes")]
    meter = StorageMeter(
        [*step.model.parameters(), *step.model.buffers(), *state, *step.batch], step.model.parameters()
    )
    with meter:
        step.run()
    return meter
