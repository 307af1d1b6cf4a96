"""Memory, FLOPs and time of one training step, measured or planned before it runs; public names are imported lazily."""

from bdia import lazy_names

_MODULES = {
    "Fit": ".fit",
    "fit_to_memory": ".fit",
    "StepCost": ".traced_step",
    "TrainingStep": ".traced_step",
    "trace_step": ".traced_step",
    "StorageMeter": ".storage_meter",
    "Planner": ".planner",
    "describe_device": ".device",
}

__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
