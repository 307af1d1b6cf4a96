"""Weights in bfloat16 or float16, their optimizer in float32: it keeps a float32 copy of each weight and steps that."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from bdia import UnsupportedError


class Float32Master(Optimizer):
    """An optimizer whose state is float32 whatever the weights are.

    A bfloat16 weight has 8 significant bits: a step of less than 1/256 of it is lost when it is added. The float32 copy
    (the master) takes every step, and the weight is the master, rounded. A float32 weight is stepped as it is. State
    and groups are those of the optimizer itself, with `master` beside its other tensors: schedules, checkpoints and
    `optimizer.in_backward` work as ever.

    Args:
        params: parameters, or groups of them, as for any optimizer.
        make: an optimizer that updates each parameter from its own gradient and state, as SetAdam and torch's do.
    Raises:
        UnsupportedError: LBFGS.
    Memory: 4 bytes a weight more than the optimizer's float32 state; in a step one weight's gradient in float32.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, make: Callable[[Any], Optimizer]
    ) -> None:
        self._inner = make(params)
        if isinstance(self._inner, LBFGS):
            raise UnsupportedError(
                "optimizer.float32_master=true with LBFGS: its step needs all weights at once; set "
                "optimizer.float32_master=false"
            )
        super().__init__(self._inner.param_groups, self._inner.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)
        return loss

    def _step(self, p: Tensor, group: dict[str, Any]) -> None:
        """Let the optimizer itself step one parameter, or its master."""
        state = self.state[p]
        if p.dtype != torch.float32 and "master" not in state:
            state["master"] = p.detach().float()
        stepped = state.get("master", p)
        if stepped is not p:
            stepped.grad = p.grad.float()
        self._inner.param_groups = [{**group, "params": [stepped]}]
        self._inner.state[stepped] = {name: value for name, value in state.items() if name != "master"}
        self._inner.step()
        state.update(self._inner.state.pop(stepped))
        if stepped is not p:
            stepped.grad = None
            p.copy_(stepped)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; torch would round it to the weights' type."""
        super().load_state_dict(state_dict)
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.dtype != self.state[p][name].dtype:
                    self.state[p][name] = value.to(self.state[p][name].device, copy=True)
