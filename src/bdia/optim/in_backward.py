"""Step each parameter inside backward, as soon as its gradient is complete, and drop the gradient at once."""

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from bdia import UnsupportedError

_HANDLES = WeakTensorKeyDictionary()  # parameter -> its hook: the newest optimizer is the one that steps


def in_backward(
    params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, make: Callable[[Any], Optimizer]
) -> Optimizer:
    """Return make(params), which steps each parameter during backward; `step()` then finds nothing left to do.

    The optimizer stays an ordinary one: same groups, same state dict, so that schedules and checkpoints are as without,
    and a training may change from one to the other. Weights are equal bit for bit. A gradient is complete when autograd
    has added up all uses of the parameter, those that checkpointing or a reversible stack recomputes too: a tied weight
    is stepped once, after its last use. A step that raises an error has then changed a part of the weights already.

    Args:
        params: parameters, or groups of them, as for any optimizer.
        make: an optimizer that updates each parameter from its own gradient and state, as SetAdam and torch's do.
    Raises:
        UnsupportedError: LBFGS; in backward: a second gradient for a parameter before `step()`, or an optimizer that
            keeps a state of a whole group.
    Memory: one gradient at a time, instead of all at the end of backward; those of tied weights wait for the last use.
    """
    optimizer = make(params)
    if isinstance(optimizer, LBFGS):
        raise UnsupportedError(
            "optimizer.in_backward=true with LBFGS: its step needs all gradients at once; set "
            "optimizer.in_backward=false"
        )
    stepper = _Stepper(optimizer)
    optimizer.register_step_pre_hook(stepper.begin)
    for place, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if (old := _HANDLES.pop(p, None)) is not None:
                old.remove()
            handle: RemovableHandle = p.register_post_accumulate_grad_hook(functools.partial(stepper.step, place))
            _HANDLES[p] = handle
    return optimizer


class _Stepper:
    """What the hooks of one optimizer share. It does not keep the optimizer alive: without it nothing is stepped."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._stepped: set[int] = set()  # ids of parameters, since the optimizer's last whole step began
        self._inside = False

    def begin(self, *_: Any) -> None:
        """Start anew where the whole optimizer steps: before the backward in its closure, or after a backward."""
        if not self._inside:
            self._stepped.clear()

    def step(self, place: int, p: nn.Parameter) -> None:
        """Step one parameter of the group at a place, and drop its gradient."""
        optimizer = self._optimizer()
        if optimizer is None:
            return
        if id(p) in self._stepped:
            raise UnsupportedError(
                f"optimizer.in_backward=true: a parameter of shape {tuple(p.shape)} got a second gradient before "
                "optimizer.step(), wanted one backward per step, without reentrant checkpoints; set "
                "optimizer.in_backward=false"
            )
        self._stepped.add(id(p))
        groups, group = optimizer.param_groups, optimizer.param_groups[place]
        alone = {**group, "params": [p]}
        optimizer.param_groups, self._inside = [alone], True
        try:
            type(optimizer).step(optimizer)  # not the instance's, in which a schedule counts whole steps
        finally:
            optimizer.param_groups, self._inside = groups, False
        p.grad = None
        if alone.keys() != group.keys() or any(alone[key] is not group[key] for key in group if key != "params"):
            raise UnsupportedError(
                f"optimizer.in_backward=true: {type(optimizer).__name__} keeps a state of a whole group, wanted state "
                "per parameter only; set optimizer.in_backward=false"
            )
