"""Memory, FLOPs and time of one training step, measured or planned before it runs; public names are imported lazily."""

from typing import TYPE_CHECKING

from bdia import lazy_names

if TYPE_CHECKING:  # what a type checker or an editor reads
    from bdia.profiling.device import describe_device as describe_device
    from bdia.profiling.fit import Fit as Fit
    from bdia.profiling.fit import fit_to_memory as fit_to_memory
    from bdia.profiling.moments import StepCost as StepCost
    from bdia.profiling.planner import Planner as Planner
    from bdia.profiling.storage_meter import StorageMeter as StorageMeter
    from bdia.profiling.traced_step import TrainingStep as TrainingStep
    from bdia.profiling.traced_step import trace_step as trace_step

_MODULES = {
    "Fit": ".fit",
    "fit_to_memory": ".fit",
    "StepCost": ".moments",
    "TrainingStep": ".traced_step",
    "trace_step": ".traced_step",
    "StorageMeter": ".storage_meter",
    "Planner": ".planner",
    "describe_device": ".device",
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
