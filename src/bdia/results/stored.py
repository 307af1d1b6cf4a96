"""What is said of BDIA runs that stored all activations although their law of gamma has an inverse.

Studies of accuracy train so: the weights are those of a reversible run to the bit, and it is quicker. Their memory and
time are not the method's; those are taken from a reversible run of the same config, where one is recorded.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from bdia.results.record import RunRecord
from bdia.results.statistics import NONE, Experiment, Spread, Variant
from bdia.results.variants import class_name, flatten, stack_class
from bdia.reversible.stacks.registry import BDIA


def stored_notes(experiment: Experiment, runs: Sequence[RunRecord]) -> list[str]:
    """Return the notes under the table of an experiment; none where no run could have been reversible.

    Args:
        runs: among which the reversible run of a config is sought.
    """
    stored = [variant for variant in experiment.variants if variant.runs and is_stored(variant.example.config)]
    if not stored:
        return []
    labels = "; ".join(variant.label for variant in stored)
    lines = [
        f"Trained stored (equal weights to the bit): {labels}. Memory and time of these rows are those of storing all "
        "activations."
    ]
    alone = False
    for variant in stored:
        twins = [run for run in runs if run.status == "ok" and _is_twin(run, variant)]
        alone = alone or not twins
        if twins:
            names = ", ".join(sorted({run.experiment for run in twins}))
            memory, time = (_mean(twins, name) for name in ("peak_allocated", "step_time"))
            lines.append(f"{variant.label}, reversible run of {names}: peak memory {memory} MiB, step {time} ms.")
    if alone:
        others = "the other rows" if len(lines) > 1 else "these rows"
        lines.append(f"Of {others} no reversible run is among the records: stack.backward=reversible trains one.")
    return lines


def is_stored(config: Mapping[str, Any]) -> bool:
    """Tell whether a run stored all activations although it could have been reversible."""
    stack = config.get("stack") or {}
    return stack_class(config) == BDIA.class_name and stack.get("backward") == "stored" and has_inverse(stack)


def has_inverse(stack: Mapping[str, Any]) -> bool:
    """Tell whether the update of a BDIA stack has an exact inverse: a grid, and a gamma that is never 0."""
    gamma = stack.get("gamma")
    if stack.get("bits") is None or class_name(gamma) == "Uniform":
        return False
    law = gamma if isinstance(gamma, Mapping) else {"value": gamma}
    values = [law[name] for name in ("value", "first", "last") if law.get(name) is not None]
    values += [*(law.get("values") or ()), *(law.get("weights") or ())]
    return all(Fraction(str(value)) != 0 for value in values)


def _is_twin(run: RunRecord, variant: Variant) -> bool:
    """Tell whether a run is of a variant's config, but for being reversible and what its experiment is called."""
    stack = run.config.get("stack") or {}
    reversible = stack_class(run.config) == BDIA.class_name and stack.get("backward") == "reversible"
    return reversible and _condition(run) == _condition(variant.example)


def _condition(run: RunRecord) -> dict[str, Any]:
    flat = flatten(run.config) | {"device": run.device["name"]}
    return {key: value for key, value in flat.items() if key != "stack.backward"}


def _mean(runs: Sequence[RunRecord], name: str) -> str:
    values = [value for run in runs if (value := run.final(name)) is not None]
    return f"{Spread.of(values).mean:.1f}" if values else NONE
