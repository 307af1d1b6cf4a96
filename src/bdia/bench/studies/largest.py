"""The longest text, the most blocks and the largest batch whose planned step fits into a memory.

K blocks, T tokens, B texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bdia.bench.studies.whole_step import IN_BACKWARD, WAYS, Way
from bdia.profiling.config_steps import ConfigSteps
from bdia.profiling.moments import StepCost
from bdia.profiling.search import largest_that_fits
from bdia.profiling.sizes import GIB

TEXT = 256  # tokens: the longest text is a multiple of it
FIRST_TEXT = 8192  # tokens: lines over the length begin here, where an update has all its parts
LONGEST, DEEPEST, BATCH = QUESTIONS = ("longest text", "most blocks", "largest batch")
SIZES = ("peak", "parameters", "gradients", "optimizer", "activations", "held")


@dataclass(frozen=True)
class Size:
    """A model and its batch: K, T and B."""

    depth: int
    tokens: int
    batch: int


@dataclass(frozen=True)
class FitSizes:
    """What limits were planned for: these settings of the study `length`, whose `Arguments` says what each means."""

    fit_model: str
    fit_vocabulary: int
    fit_depth: int
    fit_tokens: int
    fit_batch: int


class Steps:
    """Plans steps of a language model; its positions follow the tokens.

    Args:
        model: overrides that choose it. vocabulary, device: of `ConfigSteps`.
    """

    def __init__(self, model: Sequence[str], vocabulary: int | None, device: str) -> None:
        self.model, self.vocabulary, self.device = model, vocabulary, device
        self._steps: dict[tuple[str, int], ConfigSteps] = {}

    def cost(self, way: Way, size: Size) -> StepCost:
        """Return what a step costs."""
        return self._of(way, size).cost(_stack(way), size.batch, (size.depth,))

    def line(self, way: Way, first: Size, second: Size) -> Callable[[int], StepCost] | None:
        """Return the cost of the step n times as far from the first as the second is; None if it is on no line."""
        (one, other) = (self._of(way, size).moments(_stack(way), size.batch, (size.depth,)) for size in (first, second))
        if one.extended([(other, 1)]) is None:
            return None
        return lambda n: one.extended([(other, Fraction(n))]).cost()

    def alike(self, way: Way, size: Size) -> bool:
        """Whether few blocks stand for many."""
        return self._of(way, size).alike(_stack(way))

    def _of(self, way: Way, size: Size) -> ConfigSteps:
        flag = f"optimizer.in_backward={str(IN_BACKWARD in way.overrides).lower()}"
        if (flag, size.tokens) not in self._steps:
            own = [*self.model, "data=pydoc", "optimizer=adamw", flag, f"model.net.positions={size.tokens}"]
            self._steps[flag, size.tokens] = ConfigSteps(own, size.tokens, 0, self.vocabulary, self.device)
        return self._steps[flag, size.tokens]


def _stack(way: Way) -> tuple[str, ...]:
    return tuple(word for word in way.overrides if word != IN_BACKWARD)


def planned(cost: StepCost) -> dict[str, int]:
    """Return a cost as the columns of a row."""
    return {name: getattr(cost, name) for name in SIZES}


def limits(arguments: Any, name: str, questions: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each question and memory; `arguments` are those of the study `length`, `name` a key of WAYS."""
    steps = Steps([f"model={arguments.fit_model}"], arguments.fit_vocabulary or None, arguments.device)
    rows = []
    for question in questions:
        search = _Search(steps, WAYS[name], question, arguments)
        for gib in sorted(arguments.gib):
            row = {"question": question, "way": name, "label": WAYS[name].label, "gib": gib}
            rows.append(row | search.largest(gib * GIB))
    return rows


class _Search:
    """Looks for the largest answer to one question, in units of `unit_of(question)`."""

    def __init__(self, steps: Steps, way: Way, question: str, arguments: Any) -> None:
        self.steps, self.way, self.question, self.arguments = steps, way, question, arguments
        self.unit = unit_of(question)
        starts = {LONGEST: max(FIRST_TEXT, arguments.fit_tokens) // TEXT, DEEPEST: arguments.fit_depth}
        self.start = starts.get(question, arguments.fit_batch)
        far = question == DEEPEST and not steps.alike(way, self._size(self.start))
        self.extrapolates = far  # steps of many blocks are traced whole, which takes minutes
        self.near = None if question == DEEPEST else steps.line(way, self._size(self.start), self._size(self.start + 1))

    def largest(self, budget: float) -> dict[str, Any]:
        """Return the largest that fits, and what its step costs."""
        if self.extrapolates:
            return self._extrapolated(budget)
        found = largest_that_fits(lambda n: self._cost(n).peak, budget, [self.start])
        return {"origin": "planned", "largest": found * self.unit} | (planned(self._cost(found)) if found else {})

    def _cost(self, n: int) -> StepCost:
        """Return what a step costs: from its first size on by the line, below it and without one by a trace."""
        if self.near is not None and n > self.start:
            return self.near(n - self.start)
        return self.steps.cost(self.way, self._size(n))

    def _extrapolated(self, budget: float) -> dict[str, Any]:
        """Continue the line through the peaks of two steps."""
        one, two = self.start, 2 * self.start
        slope = (self._peak(two) - self._peak(one)) / (two - one)
        found = max(0, int(one + (budget - self._peak(one)) // slope))
        row = {"origin": "planned, on a line through two depths", "largest": found}
        return row | ({"peak": int(self._peak(one) + slope * (found - one))} if found else {})

    def _peak(self, n: int) -> int:
        return self.steps.cost(self.way, self._size(n)).peak

    def _size(self, n: int) -> Size:
        return size_of(self.question, n * self.unit, self.arguments)


def unit_of(question: str) -> int:
    """Return what the answer to a question is a multiple of."""
    return TEXT if question == LONGEST else 1


def size_of(question: str, largest: int, arguments: Any) -> Size:
    """Return the step that answers a question; `arguments` has the `fit_` sizes of the study `length`."""
    depth, tokens, batch = arguments.fit_depth, arguments.fit_tokens, arguments.fit_batch
    sizes = {BATCH: Size(depth, tokens, largest), DEEPEST: Size(largest, tokens, batch)}
    return sizes.get(question) or Size(depth, largest, 1)
