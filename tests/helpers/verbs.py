"""What the verbs of `bdia` read."""

from dataclasses import fields
from importlib import import_module

ELSEWHERE = {"bench": "bdia.bench.run", "bench-lora": "bdia.bench.lora_depth"}  # where their Arguments are


def own_arguments(verb: str) -> set[str]:
    """The keys of a verb's own arguments; none for those that only choose from configs/."""
    module = import_module(f"bdia.cli.{verb.replace('-', '_')}")
    classes = [getattr(module, "Choice", None), getattr(module, "Arguments", None)]
    if verb in ELSEWHERE:
        classes.append(import_module(ELSEWHERE[verb]).Arguments)
    own = set()
    if verb == "study":  # its keys are those of the study that it names
        own, classes = {"name", "out"}, [import_module(study).Arguments for study in module.STUDIES.values()]
    return own | {field.name for cls in classes if cls is not None for field in fields(cls)}
