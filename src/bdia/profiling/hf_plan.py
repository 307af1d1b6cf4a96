"""How long a text fits into a given memory when a Hugging Face model is trained, for every way to train it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from bdia import BdiaError, InvalidValueError
from bdia.profiling.alike import alike_moments
from bdia.profiling.hf_model import WAYS, HfSteps, Way
from bdia.profiling.moments import Moments, StepCost
from bdia.profiling.search import largest_that_fits
from bdia.profiling.sharded import Shards
from bdia.profiling.sizes import CATEGORIES
from bdia.profiling.traced_step import nothing_computed, trace_moments

SHORT, LONG, CHECK = 2048, 4096, 6144  # tokens: two lengths that lines go through, and one that must lie on them
STRAIGHT = 0.001  # of a peak: what the loss's last chunk, which is not full, may add


@dataclass(frozen=True)
class HfRow:
    """One way's step.

    Args:
        sizes: bytes at the peak of a step at the length asked for, their sum as `peak`, and what is `held` between
            forward and backward; empty where the model cannot be trained so, `refused` then says why.
        longest: the most tokens of a text in each of the memories; 0: none.
    """

    name: str
    sizes: dict[str, int]
    longest: tuple[int, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class HfPlan:
    """The question and every way's answer.

    Args:
        positions: those of the configuration, if any. memories: in bytes, of each of the `devices`.
    """

    config: str
    parameters: int
    layers: int
    positions: int | None
    devices: int
    batch: int
    tokens: int
    precision: str
    optimizer: str
    device: str
    memories: tuple[int, ...]
    ways: list[HfRow]


class HfPlanner:
    """Plans the steps of one configuration; each is traced once, with a few layers and short texts.

    Args:
        steps: what is planned.
        depth: layers; None takes the configuration's.
        devices: FSDP2 shares weights, gradients and optimizer state out over so many; the plan is of one of them.
    """

    def __init__(self, steps: HfSteps, depth: int | None = None, devices: int = 1) -> None:
        if depth is not None and depth < 1:
            raise InvalidValueError(f"depth={depth}: wanted at least 1; set depth")
        self.steps, self.depth = steps, depth or int(steps.config.num_hidden_layers)
        kinds = set((getattr(steps.config, "layer_types", None) or ["all"])[: self.depth])
        self._alike = len(kinds) == 1
        model = self._model()
        self.parameters, self._shards = sum(p.numel() for p in model.parameters()), Shards.of(devices, model)
        self._moments: dict[tuple, Moments] = {}

    def _model(self) -> nn.Module:
        with nothing_computed(self.steps.device):
            return self.steps.step(WAYS[0], SHORT, self.depth).model

    def cost(self, way: Way, tokens: int) -> StepCost:
        """Return what a step on texts of so many tokens costs."""
        return self._shards.on_one(self._whole(way, tokens)).cost()

    def row(self, way: Way, tokens: int, memories: Sequence[int]) -> HfRow:
        """Return one way's answer.

        Raises:
            BdiaError: `convert` or `checkpoint_two_level` does not take the model.
        """
        need = self._by_length(way)
        longest = tuple(largest_that_fits(lambda n: need(n).peak, memory, [SHORT]) for memory in memories)
        cost = need(tokens)
        return HfRow(way.name, {name: getattr(cost, name) for name in ("peak", *CATEGORIES, "held")}, longest)

    def rows(self, tokens: int, memories: Sequence[int]) -> list[HfRow]:
        """Return every way's answer, or why there is none."""
        found = []
        for way in WAYS:
            try:
                found.append(self.row(way, tokens, memories))
            except BdiaError as error:
                if way.is_own:
                    raise
                found.append(HfRow(way.name, {}, refused=str(error)))
        return found

    def _by_length(self, way: Way) -> Callable[[int], StepCost]:
        """Return the cost as a function of the length: on lines if a third length lies on them, else traced."""
        short, long = (self._whole(way, tokens) for tokens in (SHORT, LONG))

        def extended(tokens: int) -> StepCost:
            found = short.extended([(long, Fraction(tokens - SHORT, LONG - SHORT))])
            return self.cost(way, tokens) if found is None else self._shards.on_one(found).cost()

        traced = self.cost(way, CHECK).peak
        straight = abs(extended(CHECK).peak - traced) <= STRAIGHT * traced
        return extended if straight else lambda tokens: self.cost(way, tokens)

    def _whole(self, way: Way, tokens: int) -> Moments:
        keep = int((way.settings or {}).get("keep", 0))
        found = None
        if self._alike and not way.two_level:  # segments are runs of layers, of different lengths
            found = alike_moments(lambda depths, kept: self._trace(way, tokens, depths[0], kept), (self.depth,), keep)
        return found or self._trace(way, tokens, self.depth, keep)

    def _trace(self, way: Way, tokens: int, depth: int, keep: int) -> Moments:
        key = way.name, tokens, depth, keep
        if key not in self._moments:
            self._moments[key] = trace_moments(lambda: self.steps.step(way, tokens, depth, keep), self.steps.device)
        return self._moments[key]
