"""Try `bdia.convert` on one family: is it exact, is the model otherwise unchanged, how much memory does it hold?"""

import contextlib
import traceback
import warnings
from dataclasses import dataclass

from torch import nn

import bdia
from bdia.reversible import TwoPoint
from helpers.compared_steps import Step, equal_tensors, eval_output, largest_difference, same_step, training_step
from helpers.families import Family
from helpers.held_memory import Held, held_per_layer
from helpers.reference_chain import reference_bdia

LAW, BITS = TwoPoint("1/2"), 9
CLOSE = 1e-5


@dataclass(frozen=True)
class FamilyResult:
    """One row of the table.

    Attributes:
        lines: lines of user code that convert the model.
        chains: {name of the module that holds the layers: layers}, as `convert` reports them.
        found: True if these are the chains of the library's code.
        exact: True if outputs, gradients and state dict are those of backward="stored", bit for bit.
        same_output: True if the outputs are those of the slow reference, bit for bit.
        difference: largest relative difference of a gradient to the slow reference.
        eval_same: True if the converted model's eval outputs are the original's, bit for bit.
        keys_same: True if the state dict has the original's keys, in the original's order.
        reverted: True if keys, classes of modules and eval outputs are the original's after `revert`.
        warned: what the engine warns of in a training step.
        held, held_before: what the converted and the original model hold per further layer.
        error, traceback: why the family was refused or failed, in a line and in full; the rest is then empty.
    """

    name: str
    library: str
    lines: int
    chains: dict[str, int]
    found: bool = False
    exact: bool = False
    same_output: bool = False
    difference: float = float("inf")
    eval_same: bool = False
    keys_same: bool = False
    reverted: bool = False
    warned: str = ""
    held: Held | None = None
    held_before: Held | None = None
    error: str = ""
    traceback: str = ""

    @property
    def close(self) -> bool:
        """True if every gradient is within 1e-5 of the slow reference."""
        return self.difference <= CLOSE

    @property
    def ok(self) -> bool:
        """True if every claim holds."""
        claims = self.found, self.exact, self.same_output, self.close, self.eval_same, self.keys_same, self.reverted
        return not self.error and all(claims)


def user_code(family: Family) -> str:
    """The lines that a user writes."""
    arguments = "".join(f", {name}={value!r}" for name, value in family.arguments.items())
    return f"bdia.convert(model{arguments})"


def convert(model: nn.Module, family: Family, backward: str = "reversible") -> dict[str, int]:
    """Convert the model in place as the row says; return the chains of the report."""
    report = bdia.convert(model, gamma=LAW, bits=BITS, keep=0, backward=backward, **family.arguments)
    return dict(report.chains)


def check_family(family: Family) -> FamilyResult:
    """Try one family. An error is part of the result, not raised: a refusal is a legitimate row of the table."""
    lines = len(user_code(family).splitlines())
    chains = {}
    try:
        chains = convert(family.model(), family)
        return FamilyResult(
            family.name,
            family.library,
            lines,
            chains,
            found=chains == {name: len(layers) for name, layers in family.layers(family.model()).items()},
            **exactness(family),
            **unchanged(family),
            held=held_per_layer(family, lambda model: convert(model, family)),
            held_before=held_per_layer(family),
        )
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return FamilyResult(family.name, family.library, lines, chains, error=text, traceback=traceback.format_exc())


def exactness(family: Family) -> dict[str, bool | float | str]:
    """Compare the reversible backward pass with the stored one and with the slow reference."""
    found, warned = converted_step(family, "reversible")
    stored, _ = converted_step(family, "stored")
    wanted = reference_step(family)
    return {
        "warned": warned,
        "exact": same_step(found, stored),
        "same_output": equal_tensors(found.outputs, wanted.outputs),
        "difference": largest_difference(found.gradients, wanted.gradients),
    }


def converted_step(family: Family, backward: str) -> tuple[Step, str]:
    """The training step of a converted model, and what the engine warns of in it."""
    model = family.model()
    convert(model, family, backward)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step = training_step(model, family)
    ours = {str(warning.message) for warning in caught if warning.category.__module__.startswith("bdia")}
    return step, "; ".join(sorted(ours))


def reference_step(family: Family) -> Step:
    """The training step of the slow reference."""
    model = family.model()
    with contextlib.ExitStack() as stack:
        for name, layers in family.layers(model).items():
            stack.enter_context(reference_bdia(layers, LAW, BITS, family.batch_dim(name)))
        return training_step(model, family)


def unchanged(family: Family) -> dict[str, bool]:
    """Compare eval outputs, keys and classes before and after conversion, and after `revert`."""
    model = family.model()
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    wanted = eval_output(model, family)
    convert(model, family)
    eval_same, keys_same = equal_tensors(eval_output(model, family), wanted), list(model.state_dict()) == keys
    bdia.revert(model)
    same = equal_tensors(eval_output(model, family), wanted) and list(model.state_dict()) == keys
    return {
        "eval_same": eval_same,
        "keys_same": keys_same,
        "reverted": same and [type(module) for module in model.modules()] == classes,
    }
