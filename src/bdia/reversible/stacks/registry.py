"""All stacks as plain data, one row each. Imports no torch, so that results can read it.

A new stack is its class, configs/stack/<name>.yaml, a row here and tests. Tables, figures, the bench and the planner
take it from here.
"""

from typing import NamedTuple


class StackRow(NamedTuple):
    """One stack.

    Args:
        name: of its file configs/stack/<name>.yaml.
        class_name: its class; `bdia.reversible` exports it.
        module: the file of this folder that defines the class.
        label: its name in tables and figures.
        colour: its colour in every figure.
        step_time: time of a training step expected from the work done, in units of the standard stack's. A forward is
            a third of such a step, so each recomputation adds 1/3.
        keeps: the values of `stack.keep` that the bench and the planner compare. Empty: they compare the stack with
            the settings of its YAML file.
        memory_budget: whether `stack.memory_budget` may choose the stack's `keep`.
        alike: whether all blocks of a stack without `keep` are treated in the same way.
    """

    name: str
    class_name: str
    module: str
    label: str
    colour: str
    step_time: float = 4 / 3
    keeps: tuple[int, ...] = ()
    memory_budget: bool = False
    alike: bool = True

    @property
    def override(self) -> str:
        """The override of configs/train.yaml that chooses the stack."""
        return f"stack={self.name}"

    def compared(self) -> list[tuple[int | None, tuple[str, ...]]]:
        """Return the ways in which the stack is compared with others: `keep`, or None, and the overrides."""
        if not self.keeps:
            return [(None, (self.override,))]
        return [(keep, (self.override, f"stack.keep={keep}")) for keep in self.keeps]


# The colours are Okabe and Ito's, which are told apart with any colour vision.
STANDARD = StackRow("standard", "StandardStack", "standard", "standard", "#0072B2", step_time=1.0)
TWO_LEVEL = StackRow(
    "checkpoint_two_level", "TwoLevelCheckpointStack", "checkpoint", "two-level checkpointing", "#56B4E9", 5 / 3,
    alike=False,
)  # fmt: skip
REVVIT = StackRow("revvit", "RevVitStack", "revvit", "RevViT", "#CC79A7")
BDIA = StackRow("bdia", "BdiaStack", "bdia", "BDIA", "#D55E00", keeps=(0, 1), memory_budget=True)

STACKS = (  # in the order of tables and legends
    STANDARD,
    StackRow("checkpoint", "CheckpointStack", "checkpoint", "checkpointing", "#009E73", keeps=(1,), memory_budget=True),
    TWO_LEVEL,
    REVVIT,
    BDIA,
)
BY_CLASS = {row.class_name: row for row in STACKS}
