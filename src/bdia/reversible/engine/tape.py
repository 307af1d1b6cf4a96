"""The reversible engine: an ordinary autograd graph whose residual streams are freed and rebuilt.

Forward, block k: run it under `torch.utils.checkpoint`, take the update, free the storage of x_{k-1}.
Backward, block k: checkpoint recomputes the block from x_k; with the y_k it finds, the tape inverts the update and
writes x_{k-1} over x_{k+1}, which nobody reads any more. The graph stays the normal graph, so parameter gradients,
DDP, FSDP2, hooks, frozen parameters and extra block inputs behave as without the engine. A hook that keeps a block's
*input* keeps a tensor that is freed, in backward overwritten: clone it inside the hook.
"""

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import Variable
from torch.utils.checkpoint import checkpoint

from bdia.reversible.arithmetic.grid import ReversibilityError, check_range, largest_magnitude, units
from bdia.reversible.arithmetic.rules import GradientFactors, Rule
from bdia.reversible.engine.kernels import bit_sum, gradient_kernel, inverse_kernel, scaled, update_kernel
from bdia.reversible.engine.nodes import Enter, Guard, Skip, Update
from bdia.reversible.engine.recompute import selective_contexts


def _free(x: Tensor) -> None:
    x.untyped_storage().resize_(0)


def _allocate(x: Tensor) -> None:
    x.untyped_storage().resize_(x.numel() * x.element_size())


def _checked(y: object, x_curr: Tensor, k: int) -> Tensor:
    if not isinstance(y, Tensor) or y.shape != x_curr.shape:
        seen = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(
            f"block {k} returned {seen}, wanted the residual stream, a tensor of shape {tuple(x_curr.shape)}: "
            "wrap the block so that it returns only that"
        )
    return y


def _explain(k: int) -> str:
    return (
        f"block {k}: what backward recomputed differs from the forward pass, so the residual stream rebuilt below it "
        "is wrong and so are the gradients. Usual causes: a non-deterministic kernel "
        "(torch.use_deterministic_algorithms finds it), a block that changes its own state or its input, randomness "
        "that is not torch's, a parameter changed between forward and backward. "
        "stack.backward=stored (RevViT: another stack) trains such a block"
    )


_CONSUMED = (
    "second backward through one forward of a reversible stack: its states were released by the first one. "
    "Run the forward again, sum the losses, or set stack.backward=stored (RevViT: take another stack)"
)


class _Flag(contextlib.AbstractContextManager):
    """True inside the `with`: tells checkpoint's recomputation from the first forward."""

    active = False

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False


class Tape:
    """States, side information and integrity sums of one forward pass; in backward, gradients of states.

    Update k takes states k (x_prev) and k + 1 (x_curr) to state k + 2 (x_next). Updates that are not `kept` are
    recomputed in backward; with all of them kept this is an ordinary forward that stores everything.

    Args:
        depth: number of updates.
        kept: updates that keep their activations.
        outputs: how many of the last states the caller sees; those are never freed.
        bits: the grid, None for float32.
        updates_per_block: 2 where a block's branches are chained one by one; errors then name the block.
        verify: compare integrity sums (inexact rules: keep copies and measure the reconstruction error).
        kernel: how an update's tensors are passed over, one of `bdia.reversible.engine.kernels.KERNELS`.
        save: operators whose outputs a recomputed block keeps, see `bdia.reversible.engine.recompute`.
    """

    def __init__(
        self,
        depth: int,
        kept: Collection[int],
        outputs: int,
        bits: int | None,
        verify: bool,
        updates_per_block: int = 1,
        kernel: str = "eager",
        save: Sequence[Any] = (),
    ) -> None:
        self.depth, self.kept, self.outputs, self.bits, self.verify = depth, frozenset(kept), outputs, bits, verify
        self.updates_per_block, self.kernel, self.save = updates_per_block, kernel, save
        self.recomputes_any = len(self.kept) < depth
        self.states: dict[int, Tensor] = {}
        self.sides: dict[int, Tensor] = {}
        self.sums: dict[int, Tensor] = {}
        self.copies: dict[int, Tensor] = {}
        self.peaks: list[tuple[int, Tensor]] = []
        self.mismatches: list[tuple[int, Tensor]] = []
        self.errors: dict[int, Tensor] = {}
        self.grads: dict[int, tuple[GradientFactors, Tensor]] = {}
        self.first_taped: int | None = None
        self.first_sum: Tensor | None = None
        self.last_entered: int | None = None
        self.consumed = False

    # --- forward ---

    def recomputes(self, k: int) -> bool:
        """Whether update k is recomputed in backward."""
        return k not in self.kept

    def hands_out(self, state: int) -> bool:
        """Whether the caller sees this state."""
        return state > self.depth + 1 - self.outputs

    def rebuilds(self, k: int) -> bool:
        """Whether state k is freed after update k and rebuilt in backward: a taped block k - 1 starts from it."""
        return self.recomputes(k) and self.first_taped is not None and self.first_taped < k

    def run(
        self, k: int, call: Callable[[Tensor], Tensor], rule: Rule, x_prev: Tensor | None, x_curr: Tensor
    ) -> Tensor:
        """Run block k and its update, under the tape where it is recomputed. Returns x_next."""
        flag, previous = _Flag(), [x_prev]  # read once: what is recomputed needs no x_prev, and must not keep it
        first, again = selective_contexts(self.save if self.recomputes(k) else ())

        def region(x: Tensor) -> Tensor:
            x_prev = previous.pop() if previous else None
            x = self._recall(k, x) if flag.active else x
            x = Skip.apply(x_prev, x, self, k)
            version = None if x.is_inference() else x._version
            with again if flag.active else first:
                y = call(x)
            y = _checked(y, x, k // self.updates_per_block)
            if version is not None and x._version != version:
                raise RuntimeError(f"block {k // self.updates_per_block} changes its input in place: clone it there")
            if self.first_taped is None and (y.requires_grad or x.requires_grad):
                self.first_taped = k
            return Update.apply(None if x_prev is None else x_prev.detach(), x, y, rule, self, k, flag.active)

        if not self.recomputes(k):
            return region(x_curr)
        contexts = contextlib.nullcontext(), flag
        x_next = checkpoint(region, x_curr, use_reentrant=False, early_stop=False, context_fn=lambda: contexts)
        if self.rebuilds(k):
            _free(self.states[k])
        return Guard.apply(x_next) if self.hands_out(k + 2) else x_next

    def _recall(self, k: int, x_curr: Tensor) -> Tensor:
        """Return the values of x_curr, which may have been rebuilt in the memory of a later state."""
        state = self.states.get(k + 1)
        if state is None or (state.numel() and not state.untyped_storage().nbytes()):
            raise RuntimeError(_CONSUMED)
        return state.detach().requires_grad_(x_curr.requires_grad)

    def advance(self, k: int, rule: Rule, x_prev: Tensor | None, x_curr: Tensor, y: Tensor) -> Tensor:
        """Take update k; note what its inverse will need."""
        frees = self.rebuilds(k)
        passed = update_kernel(
            rule, x_prev, x_curr, y, note=frees, verify=frees and self.verify and rule.exact, kernel=self.kernel
        )
        if passed.peak is not None:
            self.peaks.append((k // self.updates_per_block, passed.peak))
        if self.recomputes(k) and self.first_taped is not None:
            self.states |= {k + 1: x_curr.data, k + 2: passed.x_next.data}
            if k == self.first_taped and self.verify and self.bits is not None:
                self.first_sum = bit_sum(y.float())
        if frees:
            # `.data` shares the storage but not the version counter: rewriting the storage is no in-place change.
            self.states[k], self.sides[k] = x_prev.data, passed.packed
            if passed.bit_sum is not None:
                self.sums[k] = passed.bit_sum
            elif self.verify:
                self.copies[k] = x_prev.clone()
        return passed.x_next

    def enter(self, x: Tensor) -> Tensor:
        """Return x_0: Q_l[x], or a copy. The caller's tensor is never the one that is freed."""
        x = Enter.apply(x, self.bits)
        if self.bits is not None and x.numel():
            self.peaks.append((0, largest_magnitude(x) * units(self.bits)))
        return x

    def finish_forward(self, output: Tensor) -> None:
        """Check the grid's range; on an accelerator leave it to the end of backward, which synchronises anyway."""
        if isinstance(output, FakeTensor):
            self.peaks.clear()
        elif output.device.type == "cpu" or not (output.requires_grad and self.recomputes_any):
            self._check_range()

    def _check_range(self) -> None:
        if self.bits is not None:
            check_range(self.peaks, self.bits)
        self.peaks.clear()

    def side_bytes(self) -> int:
        """Bytes of side information held."""
        return sum(packed.nbytes for packed in self.sides.values())

    # --- backward ---

    def enter_backward(self, k: int) -> None:
        """Refuse what freed states cannot serve: create_graph, and a second backward."""
        if not self.recomputes_any:
            return
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True needs stored activations: set stack.backward=stored (or use StandardStack)"
            )
        if self.last_entered is None or k >= self.last_entered:
            if self.consumed:
                raise RuntimeError(_CONSUMED)
            Variable._execution_engine.queue_callback(self._finish_backward)
        self.last_entered = k
        if k in self.kept and k + 2 in self.states and not self.hands_out(k + 2):
            _free(self.states.pop(k + 2))  # a recomputed update does this when it is reconstructed

    def grad_y(self, k: int, rule: Rule, grad_x_next: Tensor) -> Tensor:
        """Return the gradient of y_k; what x_curr and x_prev get is left to `grad_x_curr` and `grad_x_prev`."""
        if not self.grads:  # what the Skips of this pass do not take is gone when it ends
            Variable._execution_engine.queue_callback(self.grads.clear)
        transpose = rule.gradient_factors(grad_x_next.dim())
        self.grads[k + 2] = transpose, grad_x_next
        return scaled(transpose.y, grad_x_next)

    def grad_x_prev(self, k: int) -> Tensor | None:
        """Return what update k sends to state k; None where no gradient reached x_next."""
        if k + 2 not in self.grads:
            return None
        transpose, grad_x_next = self.grads[k + 2]
        return scaled(transpose.x_prev, grad_x_next)

    def grad_x_curr(self, k: int, through_block: Tensor, x_prev_waits: bool) -> Tensor:
        """Return the gradient of state k + 1: through block k, as x_curr of update k and as x_prev of update k + 1.

        A loss of the block alone, one that its hooks collected, sends it nothing but the first.
        """
        shares = []
        if k + 2 in self.grads:
            transpose, grad_x_next = self.grads[k + 2] if x_prev_waits else self.grads.pop(k + 2)
            shares.append((transpose.x_curr, grad_x_next))
        if k + 3 in self.grads:
            transpose, grad_after = self.grads.pop(k + 3)
            shares.append((transpose.x_prev, grad_after))
        return gradient_kernel(through_block, shares, self.kernel)

    def reconstruct(self, k: int, rule: Rule, y: Tensor) -> None:
        """Rebuild state k from states k + 1, k + 2 and the recomputed y, in the place of state k + 2 or beside it."""
        x_next, x_curr = self.states.pop(k + 2), self.states[k + 1]
        if self.rebuilds(k):
            x_prev = self.states[k] = self._place_of_prev(k, x_next)
            check = k in self.sums
            found = inverse_kernel(rule, x_prev, x_curr, y, self.sides.pop(k), check, self.kernel)
            if check:
                self.mismatches.append((k, found != self.sums.pop(k)))
            if k in self.copies:
                self.errors[k] = (x_prev - self.copies.pop(k)).abs().amax()
        elif self.first_sum is not None:  # no inversion here to show a block that did not repeat itself
            self.mismatches.append((k, bit_sum(y.float()) != self.first_sum))
        self.consumed = True
        if not self.hands_out(k + 2) and x_next is not self.states.get(k):
            _free(x_next)

    def _place_of_prev(self, k: int, x_next: Tensor) -> Tensor:
        """Return x_next's values where state k is to be: x_next itself where nobody reads it any more.

        State k goes back to its own memory where a neighbour of block k kept its activations (k - 1: they share that
        memory; k + 1: they share x_next's), or where it is laid out in another way, for a kernel's result may depend
        on that.
        """
        x_prev = self.states[k]
        shared = self.hands_out(k + 2) or not (self.recomputes(k - 1) and self.recomputes(k + 1))
        if not shared and x_prev.stride() == x_next.stride():
            return x_next
        _allocate(x_prev)
        return x_prev.copy_(x_next)

    def _finish_backward(self) -> None:
        """Run by autograd when the backward pass ends: one synchronisation for all checks, then release the states."""
        self._check_range()
        mismatches, self.mismatches = self.mismatches, []
        if mismatches and not isinstance(mismatches[0][1], FakeTensor):  # a planner's tensors hold no values
            wrong = torch.stack([wrong for _, wrong in mismatches]).tolist()
            for (k, _), is_wrong in zip(mismatches, wrong, strict=True):
                if is_wrong:
                    raise ReversibilityError(_explain(k // self.updates_per_block))
        if self.consumed:
            for state, x in self.states.items():
                if not self.hands_out(state):
                    _free(x)
            self.states.clear()
