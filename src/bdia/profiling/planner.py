"""What every stack needs for one training step of a config, and what to do with a given amount of memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bdia import BdiaError, InvalidValueError
from bdia.build import kind_of_model
from bdia.profiling.config_steps import ConfigSteps
from bdia.profiling.moments import StepCost
from bdia.profiling.search import largest_that_fits
from bdia.profiling.sizes import format_bytes
from bdia.profiling.workload import NUM_CLASSES, VOCAB_SIZE
from bdia.reversible import BlockStack
from bdia.reversible.stacks import registry

STACKS = {  # what is planned, by name: overrides
    row.name if keep is None else f"{row.name} keep {keep}": overrides
    for row in registry.STACKS
    for keep, overrides in row.compared()
}
STANDARD = (registry.STANDARD.override,)
CLOSE = 1 / 4  # of a batch: so far lines are continued
TRACED_BLOCKS = 16  # of a stack whose blocks are not alike; a trace takes about a tenth of a second a block


@dataclass(frozen=True)
class StackPlan:
    """One stack's step.

    Args:
        overrides: that choose the stack.
        cost: None where the stack does not take the model; `refused` then says why.
        relative_flops: of the step, to the standard stack's. No time is predicted.
        held_per_block: bytes of activations that a further block holds between forward and backward.
        largest_batch, largest_depth: that fit into the memory given (0: none), the other one as asked for; None
            where no memory was given.
        depth_is_traced: False if the depth lies on a line through smaller ones, as that of a stack whose blocks are not
            alike may.
    """

    name: str
    overrides: tuple[str, ...]
    cost: StepCost | None
    relative_flops: float = 0.0
    held_per_block: float = 0.0
    largest_batch: int | None = None
    largest_depth: int | None = None
    depth_is_traced: bool = True
    refused: str = ""


@dataclass(frozen=True)
class Policy:
    """The quickest way that fits: overrides to paste, and the step's cost with them."""

    overrides: tuple[str, ...]
    cost: StepCost
    relative_flops: float


@dataclass(frozen=True)
class Plan:
    """The question, every stack's answer and the policy; `memory` in bytes, `blocks` of every stack of the model."""

    overrides: tuple[str, ...]
    kind: str
    batch: int
    tokens: int | None
    blocks: tuple[int, ...]
    parameters: int
    values: int
    precision: str
    device: str
    stacks: list[StackPlan]
    memory: int | None = None
    policy: Policy | None = None


class Planner:
    """Traces training steps of a config on made-up batches, each once.

    Args:
        overrides: of configs/train.yaml. If they choose a stack, only that one and the standard stack are planned.
        batch, tokens, num_classes, vocab_size: of `bdia.profiling.workload.build_workload`.
        depth: blocks of the model, of each of its stacks; None takes the config's.
        device: of `bdia.profiling.traced_step.trace_step`.
    Raises:
        ValueError: the config does not compose; a depth below 1; another device than "cpu" or "cuda".
    """

    def __init__(
        self,
        overrides: Sequence[str],
        batch: int,
        tokens: int | None = None,
        depth: int | None = None,
        num_classes: int = NUM_CLASSES,
        vocab_size: int | None = None,
        device: str = "cuda",
    ) -> None:
        if any(override.lstrip("+").startswith("stack.memory_budget=") for override in overrides):
            raise InvalidValueError("stack.memory_budget is for training: set memory to the same amount")
        if depth is not None and depth < 1:
            raise InvalidValueError(f"depth={depth}: wanted at least 1; set depth")
        self.stack_overrides = tuple(o for o in overrides if o.lstrip("+").startswith(("stack", "gamma@stack")))
        self.overrides = tuple(o for o in overrides if o not in self.stack_overrides)
        self.batch, self.tokens, self.depth = batch, tokens, depth
        self.num_classes, self.vocab_size, self.device = num_classes, vocab_size, device
        self.steps = ConfigSteps(self.overrides, tokens, num_classes, vocab_size, device)
        self.cfg = self.steps.config(STANDARD, depth)
        self.workload = self.steps.workload(STANDARD, batch, depth)
        net = self.workload.task.net
        self.blocks = tuple(len(module) for module in net.modules() if isinstance(module, BlockStack))
        self.parameters = sum(p.numel() for p in net.parameters())
        self.depth = self.blocks[0] if len(set(self.blocks)) == 1 else None
        self.standard = self.cost(STANDARD)

    def cost(self, stack: tuple[str, ...], batch: int | None = None, depth: int | None = None) -> StepCost:
        """Return what a step costs; None takes the batch and depth asked for."""
        return self.steps.cost(stack, batch or self.batch, self._depths(depth))

    def _depths(self, depth: int | None) -> tuple[int, ...]:
        depth = depth or self.depth
        return (depth,) * len(self.blocks) if depth else self.blocks

    def plan(self, memory: int | None = None) -> Plan:
        """Return every stack's costs; with bytes of memory, what fits and what to choose.

        Raises:
            ValueError: the stack chosen by the overrides does not compose, or refuses its settings or the model.
        """
        choices = (
            {registry.STANDARD.name: STANDARD, " ".join(self.stack_overrides): self.stack_overrides}
            if self.stack_overrides
            else STACKS
        )
        stacks = [self._stack(name, overrides, memory) for name, overrides in choices.items()]
        policy = None if memory is None else self._policy(stacks, memory)
        values = self.num_classes if kind_of_model(self.cfg) == "images" else self._vocabulary
        return Plan(
            overrides=self.overrides, kind=kind_of_model(self.cfg), batch=self.batch, tokens=self.tokens,
            blocks=self.blocks, parameters=self.parameters, values=values, precision=str(self.cfg.trainer.precision),
            device=self.device, stacks=stacks, memory=memory, policy=policy,
        )  # fmt: skip

    @property
    def _vocabulary(self) -> int:
        return self.vocab_size or VOCAB_SIZE[kind_of_model(self.cfg)]

    def _stack(self, name: str, overrides: tuple[str, ...], memory: int | None) -> StackPlan:
        try:
            cost = self.cost(overrides)
        except BdiaError as error:
            if overrides == self.stack_overrides:  # asked for; of all stacks some may not take the model
                raise
            return StackPlan(name, overrides, None, refused=str(error))
        depth, other = max(self.blocks), max(self.blocks) // 2 or 2
        further = sum(self.blocks) - other * len(self.blocks)
        held = (cost.held - self.cost(overrides, depth=other).held) / further
        plan = StackPlan(name, overrides, cost, cost.flops / self.standard.flops, held)
        if memory is None:
            return plan
        batch = self._largest_batch(overrides, memory)
        deepest, planned = self._largest_depth(overrides, memory, [depth, other])
        return replace(plan, largest_batch=batch, largest_depth=deepest, depth_is_traced=planned)

    def _largest_batch(self, overrides: tuple[str, ...], memory: int) -> int:
        """Return the largest batch that fits; it lies on lines through the batch asked for and a second one."""
        cost = self.cost(overrides)
        fixed = cost.parameters + cost.gradients + cost.optimizer
        guess = max(1, int(self.batch * (memory - fixed) / (cost.peak - fixed)))
        chunks = self._whole_chunks()
        found, near = guess if chunks is None else self.batch + chunks, 0
        while found and abs(found - near) > near * CLOSE:
            near = found if found != self.batch else self.batch + 1
            need = self.steps.by_batch(overrides, (self.batch, near), self._depths(None))
            if need is None:
                starts = sorted({self.batch, guess})
                return largest_that_fits(lambda n: self.cost(overrides, batch=n).peak, memory, starts)
            found = largest_that_fits(need, memory, sorted({self.batch, near}))
            if chunks is not None:
                return found
        return found

    def _whole_chunks(self) -> int | None:
        """Return by how much a batch grows that adds whole chunks to the loss, None if the loss has no full ones.

        From then on bytes stay on their lines, however large the batch.
        """
        chunk = self.cfg.model.net.get("loss_chunk")
        if not chunk:
            return None
        tokens = self.tokens or self.workload.task.net.longest
        return chunk // math.gcd(chunk, tokens) if self.batch * tokens >= 2 * chunk else None

    def _largest_depth(self, overrides: tuple[str, ...], memory: int, starts: list[int]) -> tuple[int, bool]:
        """Return the largest depth that fits, and False if it lies on a line through steps of at most TRACED_BLOCKS."""

        def need(depth: int) -> int:
            return self.cost(overrides, depth=depth).peak

        if self.steps.alike(overrides):
            return largest_that_fits(need, memory, starts), True
        most = max(TRACED_BLOCKS // len(self.blocks), *starts)
        deepest = largest_that_fits(need, memory, starts, most=most)
        if deepest < most:
            return deepest, True
        return most + int((memory - need(most)) * (most - starts[1]) / (need(most) - need(starts[1]))), False

    def _policy(self, stacks: list[StackPlan], memory: int) -> Policy:
        """Standard if it fits; else BDIA, keeping as many blocks as fit; else a smaller batch as well."""
        if self.standard.peak <= memory:
            return Policy(STANDARD, self.standard, 1.0)
        override = registry.BDIA.override
        other = any(o.startswith("stack=") and o != override for o in self.stack_overrides)
        bdia = (override,) if other or not self.stack_overrides else self.stack_overrides
        none = (*bdia, "stack.keep=0")
        batch = self.batch
        if self.cost(none).peak > memory:
            batch = self._largest_batch(none, memory)
        if not batch:
            raise InvalidValueError(
                f"memory={format_bytes(memory)}: not even a batch of 1 fits, {' '.join(none)} needs "
                f"{format_bytes(self.cost(none, batch=1).peak)}; set memory to that or more, or a smaller model"
            )

        def keeping(keep: int) -> tuple[str, ...]:
            return (*bdia, f"stack.keep={keep}")

        keep = largest_that_fits(
            lambda n: self.cost(keeping(n), batch).peak, memory, [1], least=0, most=max(self.blocks)
        )
        cost = self.cost(keeping(keep), batch)
        relative = cost.flops / self.cost(STANDARD, batch).flops
        return Policy((*keeping(keep), *(self._batch_key(batch) if batch < self.batch else ())), cost, relative)

    def _batch_key(self, batch: int) -> tuple[str]:
        if kind_of_model(self.cfg) != "sentence pairs":
            return (f"data.batch_size={batch}",)
        source, target, _ = self.workload.batch
        return (f"data.token_budget={batch * (source.shape[1] + target.shape[1])}",)
