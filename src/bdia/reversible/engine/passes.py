"""One forward pass through a chain of layers, and its backward: which residual streams are alive when.

The graph between layers carries handles (`nodes.Handle`), which hold no values. The pass holds the streams x_k by
ordinary references, under the paper's index k. Dropping x_{k-1} is deleting that reference: whoever else holds the
tensor keeps it, with its values. Nothing is resized.

One training step with three blocks, none kept (`+s` are packed residues, `y` what a block returns):

    forward                 states of the pass      residues    in the graph
      begin                 x0                                  h0
      block 0, update 0     x0 x1                               h0 h1
      block 1, update 1        x1 x2                +s0         h0 h1 h2        x0 is dropped
      block 2, update 2           x2 x3             +s0 +s1     h0 h1 h2 x3     x1 is dropped; x3 goes to the caller
    backward
      recompute block 2           x2 x3                         y2 from x2: x1 = inverse(x3, x2, y2, s1), over x3
                               x1 x2                +s0         then block 2's gradients, with its activations
      recompute block 1        x1 x2                            y1 from x1: x0 = inverse(x2, x1, y1, s0), over x2
                            x0 x1                               then block 1's gradients
      recompute block 0     x0 x1                               y0 from x0: nothing to rebuild, so y0 is compared
                            x0                                  then block 0's gradients
      finish                                                    compare all sums of bits; release the states

The inverse writes over x_{k+1} only where the pass is its one holder. Shape letters: B batch, T tokens, D width.
"""

import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bdia import UnsupportedError
from bdia.reversible.arithmetic.grid import check_range
from bdia.reversible.arithmetic.rules import GradientFactors, Rule
from bdia.reversible.arithmetic.streams import FLOAT32, Stream
from bdia.reversible.engine import checks
from bdia.reversible.engine.findings import Findings, Seen, at_backward_end, on_host, read
from bdia.reversible.engine.holders import StorageReference, held_elsewhere
from bdia.reversible.engine.kernels import (
    UpdateResult,
    bit_sum,
    gradient_kernel,
    inverse_kernel,
    scaled,
    update_kernel,
)


class PassLog:
    """What the last forward of a chain left behind, in numbers.

    Attributes:
        told: what the user was warned of already.
        largest: the largest |x| that any forward has shown on the grid; on an accelerator known after the backward.
        errors: update k -> max |rebuilt - true| of x_{k-1}, once the backward ran; where the rule's inverse is inexact
            and `verify` is set.
        side_bytes: bytes of residues. rebuilt: number of streams that backward rebuilds. freed: bytes of these streams,
            less those of their residues.
    """

    def __init__(self) -> None:
        self.told: set[str] = set()
        self.largest = 0.0
        self.start()

    def start(self) -> None:
        """Begin with a new forward."""
        self.errors: dict[int, Tensor] = {}
        self.side_bytes = self.rebuilt = self.freed = 0

    def dropped(self, x: Tensor, packed: Tensor) -> None:
        """Count a stream that was dropped."""
        self.side_bytes += packed.nbytes
        self.freed += x.nbytes - packed.nbytes
        self.rebuilt += 1


class PassSettings(NamedTuple):
    """What all updates of a pass share.

    Attributes:
        keeps: whether the layer at a place of the chain keeps its activations, so that it is not recomputed.
        bits: the grid, None for float32.
        verify: compare sums of bits (rules without an exact inverse: keep the streams and measure the error).
        kernel: which implementation computes an update, one of `kernels.KERNELS`.
        updates_per_block: 2 where the two branches of a block are updates of their own; errors name the block.
        batch_dim: the dimension of the stream that counts samples.
        training: False in evaluation mode, where every activation is kept.
        log: what the passes of a chain tell those who watch them.
        prefix: what stands before a setting's name in messages: "stack." for config keys, "" for arguments.
        stream: the form in which the pass holds streams.
    """

    keeps: Callable[[int], bool]
    bits: int | None
    verify: bool
    kernel: str
    log: "PassLog"
    updates_per_block: int = 1
    batch_dim: int = 0
    training: bool = True
    prefix: str = "stack."
    stream: Stream = FLOAT32


class Pass:
    """The streams x_k that are alive, and what is needed to rebuild the others.

    Attributes:
        states: k -> x_k, contiguous, in the form of the stream. residues: k -> packed residues of a dropped x_k.
        taped_from: the first layer that a gradient can reach.
    """

    def __init__(self, settings: PassSettings, x: Tensor) -> None:
        checks.refuse_shared_out(x)
        settings.log.start()
        self.settings, self.errors = settings, settings.log.errors
        self.states: dict[int, Tensor] = {}
        self.residues: dict[int, Tensor] = {}
        self.taped_from: int | None = None
        self._versions: dict[int, int | None] = {}
        self._sums: dict[int, Tensor] = {}  # of a dropped x_k
        self._y_sums: dict[int, Tensor] = {}  # of y_k, where recomputing layer k rebuilds nothing
        self._held_sums: dict[int, Tensor] = {}  # of x_k that stay from forward to backward
        self._copies: dict[int, Tensor] = {}
        self._dropped: dict[int, StorageReference] = {}
        self._held: list[int] = []  # dropped, but alive when they are rebuilt
        self._findings = Findings()
        self._places: list[int] = []  # of the layers, in the order of their calls
        self._kept: set[int] = set()
        self._recomputes_any = False
        self._running: dict[int, LayerUpdate] | None = None  # updates that the present backward has reached
        self._consumed = False
        self._shown: weakref.ref[Tensor] | None = None  # what the last layer handed on, while the caller has it
        with torch.no_grad():
            state, peak = settings.stream.enter(x.detach().contiguous(), settings.bits)
        self._put(0, state)
        self._note_peak(0, peak)

    def rows(self, x: Tensor) -> Tensor:
        """View the stream so that its first dimension is as long as the rule's gamma."""
        return x.flatten(0, self.settings.batch_dim) if self.settings.batch_dim else x

    def begin_update(self, place: int, rule: Rule) -> "LayerUpdate":
        """Return the next update, of the layer at this place of the chain."""
        k = len(self._places)
        self._places.append(place)
        if self.settings.keeps(place):
            self._kept.add(k)
        return LayerUpdate(self, k, rule)

    def block(self, k: int) -> int:
        """The block that update k belongs to, as messages name it."""
        return self._places[k] // self.settings.updates_per_block

    def recomputes(self, k: int) -> bool:
        """Whether layer k is recomputed in backward."""
        return k not in self._kept

    @property
    def backward_began(self) -> bool:
        """Whether a backward has reached the pass, so that its forward can't go on."""
        return self._running is not None or self._consumed

    def end_forward(self) -> None:
        """Check the grid's range where no backward will: one device synchronisation. Sum the streams that stay."""
        if self.taped_from is None or not self._recomputes_any:
            self._read_range()
        elif self.settings.verify and self.settings.bits is not None:
            self._held_sums = {k: bit_sum(x) for k, x in self.states.items() if self._needed(k)}

    # --- states ---

    def state(self, k: int) -> Tensor:
        """Return x_k in backward.

        Raises:
            RuntimeError: it was released, or somebody changed it in place.
        """
        x = self.states.get(k)
        if x is None:
            raise UnsupportedError(checks.consumed(self.settings.prefix))
        if self._versions[k] is not None and x._version != self._versions[k]:
            raise UnsupportedError(checks.changed_in_place(k, self.settings.prefix))
        if k in self._held_sums:
            self._findings.note_changed(k, bit_sum(x) != self._held_sums.pop(k))
        return x

    def _put(self, k: int, x: Tensor) -> None:
        self.states[k] = x
        self._versions[k] = None if x.is_inference() else x._version

    def _needed(self, k: int) -> bool:
        """Whether backward reads x_k: to recompute layer k, or to invert update k - 1."""
        taped = self.taped_from is not None and self.taped_from <= k
        return taped and (self.recomputes(k) or k - 2 in self.residues)

    def _drops_prev(self, k: int, rule: Rule) -> bool:
        """Whether x_{k-1} is dropped after update k, to be rebuilt when layer k is recomputed.

        Where layer k - 1 keeps its activations, they hold x_{k-1} anyway.
        """
        return self._needed(k - 1) and self.recomputes(k - 1) and self.recomputes(k) and rule.invertible

    def advance(self, k: int, rule: Rule, y: Tensor) -> Tensor:
        """Return x_{k+1}; note what rebuilding x_{k-1} will need, and drop x_{k-1}."""
        x_prev, x_curr = self.states.get(k - 1), self.states[k]
        drops = self._drops_prev(k, rule)
        recomputed = self.recomputes(k) and self.taped_from is not None
        self._recomputes_any |= recomputed
        prev_rows = None if x_prev is None else self.rows(x_prev)
        sums = drops and self.settings.verify and rule.exact
        result = update_kernel(rule, prev_rows, self.rows(x_curr), self.rows(y), drops, sums, self.settings.kernel)
        self._note_peak(k, result.peak)
        if drops:
            assert x_prev is not None
            self._note_prev(k, x_prev, result)
        elif recomputed and self.settings.verify and self.settings.bits is not None:
            self._y_sums[k] = bit_sum(y.float())
        if drops or not self._needed(k - 1):
            self.states.pop(k - 1, None)
        x_next = result.x_next
        if self.settings.batch_dim:
            x_next = torch.ops.aten._unsafe_view(x_next, x_curr.shape)
        self._put(k + 1, x_next.detach())
        x_next = self.settings.stream.seen(x_next, self.settings.bits)
        self._shown = weakref.ref(x_next)
        return x_next

    def fetch(self, k: int) -> Tensor:
        """Return what layer k sees of x_k in forward: on the memory of what the last one handed on, where it lives."""
        shown = None if self._shown is None else self._shown()
        return self.settings.stream.seen(self.states[k], self.settings.bits) if shown is None else shown.detach()

    def fetch_again(self, k: int) -> Tensor:
        """Return what layer k sees of x_k when it is recomputed."""
        return self.settings.stream.seen(self.state(k), self.settings.bits)

    def _note_prev(self, k: int, x_prev: Tensor, result: UpdateResult) -> None:
        prev = k - 1
        assert result.packed is not None
        self.residues[prev] = result.packed
        self.settings.log.dropped(x_prev, result.packed)
        self._dropped[prev] = StorageReference(x_prev)
        if result.bit_sum is not None:
            self._sums[prev] = result.bit_sum
        elif self.settings.verify:
            self._copies[prev] = x_prev

    def rebuild(self, k: int, rule: Rule, y: Tensor) -> None:
        """Rebuild x_{k-1} from x_{k+1}, x_k and the recomputed y, over x_{k+1} where nobody else holds that."""
        self._begin_backward()
        self._consumed = True
        prev = k - 1
        if prev not in self.residues:
            self.states.pop(k + 1, None)
        else:
            x = self.state(k + 1)
            del self.states[k + 1]
            x = x.clone() if held_elsewhere(x) else x
            if prev not in self._copies and self._dropped[prev].alive():
                self._held.append(prev)
            tensors = self.rows(x), self.rows(self.states[k]), self.rows(y)
            total = inverse_kernel(rule, *tensors, self.residues.pop(prev), prev in self._sums, self.settings.kernel)
            self._put(prev, x)
            if total is not None:
                self.note_difference(k, total != self._sums.pop(prev))
            elif prev in self._copies:
                self.errors[k] = (x - self._copies.pop(prev)).abs().amax()
        if k in self._y_sums:
            self.note_difference(k, bit_sum(y.float()) != self._y_sums.pop(k))

    # --- range ---

    def _note_peak(self, k: int, peak: Tensor | None) -> None:
        if peak is None:
            return
        self._findings.note_peak(self.block(k) if self._places else 0, peak)
        if on_host(peak):  # elsewhere this waits for the device: once, at the end
            self._read_range()

    def _read_range(self) -> None:
        (seen,) = read([self._findings.take()])
        self._check_range(seen)

    def _check_range(self, seen: Seen) -> None:
        if self.settings.bits is not None:
            largest = check_range(seen.peaks, self.settings.bits, self.settings.prefix, self.settings.stream.range)
            self.settings.log.largest = max(largest, self.settings.log.largest)

    # --- backward ---

    def note_difference(self, k: int, differs: Tensor) -> None:
        """Remember a 0-dim bool: what layer k recomputed differs from its forward. Read when backward ends."""
        self._findings.note_difference(k, differs)

    def enter(self, update: "LayerUpdate") -> None:
        """Start the backward of an update; refuse what released states cannot serve."""
        k = update.k
        if self._recomputes_any and torch.is_grad_enabled():
            raise UnsupportedError(checks.graph_of_gradient(self.settings.prefix))
        if self._running is not None and k in self._running:
            self._running = None  # an exception ended the last backward before its end
        if self._running is None and self._consumed:
            raise UnsupportedError(checks.consumed(self.settings.prefix))
        self._begin_backward()[k] = update
        if not self.recomputes(k):
            self.states.pop(k + 1, None)  # a recomputed update does this when it rebuilds

    def _begin_backward(self) -> dict[int, "LayerUpdate"]:
        """Return the updates that the backward has reached; where it begins, have autograd call us at its end."""
        if self._running is None:
            self._running = {}
            at_backward_end(self)
            if not self.settings.training:
                checks.tell(self.settings.log.told, checks.EVALUATION)
        return self._running

    def end_backward(self) -> Findings:
        """Run when the backward ends, before anything is read: return what the checks found."""
        for update in (self._running or {}).values():
            update.release()
        self._running = None
        return self._findings.take()

    def conclude(self, seen: Seen) -> None:
        """Raise what the checks found; else release the states."""
        self._check_range(seen)
        if seen.changed:
            raise checks.held_differently(seen.changed[0], self.settings.prefix)
        if seen.differing:
            raise checks.not_repeated(self.block(seen.differing[0]), self.settings.prefix)
        if self._consumed:
            for held in (self.states, self.residues, self._sums, self._y_sums, self._held_sums, self._copies):
                held.clear()
            self._tell_of_holders()

    def _tell_of_holders(self) -> None:
        if self._held:
            checks.tell(self.settings.log.told, checks.held_states(sorted(self._held), len(self._dropped)))
        self._dropped.clear()
        self._held.clear()


class LayerUpdate:
    """Update k of a pass: what its nodes share. In backward it hands its gradient to its own block input."""

    def __init__(self, owner: Pass, k: int, rule: Rule) -> None:
        self.owner, self.k, self.rule = owner, k, rule
        self._grad_x_next: Tensor | None = None

    def fetch(self, again: bool) -> Tensor:
        """Return what the layer sees of x_k."""
        return self.owner.fetch_again(self.k) if again else self.owner.fetch(self.k)

    def advance(self, y: Tensor) -> Tensor:
        """Return x_{k+1}."""
        return self.owner.advance(self.k, self.rule, y)

    def rebuild(self, y: Tensor) -> None:
        """Rebuild x_{k-1} from the recomputed y."""
        self.owner.rebuild(self.k, self.rule, y)

    @property
    def block(self) -> int:
        """The block that the update belongs to, as messages name it."""
        return self.owner.block(self.k)

    def not_repeated(self, raised: Exception | None = None) -> Exception:
        """Return the error for a block whose second run differs from its first."""
        return checks.not_repeated(self.block, self.owner.settings.prefix, raised)

    def begin_backward(self, grad_x_next: Tensor) -> None:
        """Take the gradient of x_{k+1}.

        Raises:
            RuntimeError: create_graph, a second backward, or a batch of gradients.
        """
        checks.refuse_batched(grad_x_next)
        self.owner.enter(self)
        self._grad_x_next = grad_x_next

    def grad_y(self) -> Tensor:
        """Return the gradient of y_k."""
        grad = self._grad_x_next
        assert grad is not None
        rows = self.owner.rows(grad)
        return scaled(self._factors(rows).y, rows).view(grad.shape)

    def input_gradients(self, through_block: Tensor, needs_prev: bool) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of x_k, through the block and past it, and of x_{k-1}.

        If the loss reads only the block's own outputs, nothing flows past the block.
        """
        grad, self._grad_x_next = self._grad_x_next, None
        if grad is None:
            return through_block, None
        rows = self.owner.rows(grad)
        grad_x_curr, grad_x_prev = gradient_kernel(
            self.owner.rows(through_block), rows, self._factors(rows), needs_prev, self.owner.settings.kernel
        )
        return grad_x_curr.view(grad.shape), None if grad_x_prev is None else grad_x_prev.view(grad.shape)

    def _factors(self, rows: Tensor) -> GradientFactors:
        return self.rule.gradient_factors(rows.dim())

    def release(self) -> None:
        """Forget a gradient that no block input asked for."""
        self._grad_x_next = None
