"""SET-Adam: Adam with a suppressed range of step sizes, the optimizer of the paper's image experiments."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bdia import InvalidValueError, UnsupportedError
from bdia.optim.reductions import Reductions, local, reductions_of

GROUP_ELEMENTS = 2**21  # elements updated together: bounds the temporary memory of a step to 8 MiB in float32


class SetAdam(Optimizer):
    """Adam whose second moment is scaled down, gets epsilon inside the root, and is translated down, per tensor.

    With d elements and the moments m, v of Adam:

        vt = v (sum v)^2 / (d sum v^2)
        w = sqrt(vt / (1 - beta2^t) + eps);   w = w - 0.5 min(w)
        theta -= lr / (1 - beta1^t) m / w

    Under FSDP2 these are sums and minima of whole tensors: a step exchanges a few numbers of each tensor, in three
    calls for 2^21 elements. The sums are rounded in another order than on one device.

    Source: Zhang, arXiv 2302.01029. There is no weight decay. A tensor whose gradients were all zero so far has
    v = 0; its vt is taken as 0, so it does not move.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: in units of a squared gradient. 1e-18 is the author's setting as we know it, not stated in our
            sources; it only matters for gradients of about 1e-9 and below.
    Raises:
        ValueError: lr, betas or eps out of range; names the config key.
        RuntimeError: a sparse gradient.
    Memory: state is two tensors per parameter; a step adds one temporary of 2^21 elements, or of the largest
        single parameter if that is larger.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-18,
    ):
        if not lr >= 0.0:
            raise InvalidValueError(f"learning rate is {lr}, wanted a number >= 0; change optimizer.lr")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise InvalidValueError(f"betas are {tuple(betas)}, wanted both in [0, 1); change optimizer.betas")
        if not eps > 0.0:
            raise InvalidValueError(f"eps is {eps}, wanted a number > 0 (it keeps 0/0 away); change optimizer.eps")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient; return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None and p.numel()]
            for p in params:
                self._check_and_initialise(p)
            for alike in _by_layout(params):
                # whole sizes, also of what is shared out: every process must make the same groups
                for some in bounded_groups(alike, GROUP_ELEMENTS):
                    self._update(some, group["lr"], *group["betas"], group["eps"])
        return loss

    def _check_and_initialise(self, p: Tensor) -> None:
        if p.grad.is_sparse:
            raise UnsupportedError(
                f"SetAdam got a sparse gradient for a parameter of shape {tuple(p.shape)}, wanted a dense one; "
                "build the embedding with sparse=False or change optimizer"
            )
        if not self.state[p]:
            self.state[p] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def _update(self, params: list[Tensor], lr: float, beta1: float, beta2: float, eps: float) -> None:
        grads = [local(p.grad) for p in params]
        states = [self.state[p] for p in params]
        m, v = [local(s["exp_avg"]) for s in states], [local(s["exp_avg_sq"]) for s in states]
        for s in states:
            s["step"] += 1
        t = [s["step"].item() for s in states]
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        w = denominators(v, [1 - beta2**i for i in t], eps, [p.numel() for p in params], reductions_of(params[0]))
        torch._foreach_addcdiv_([local(p) for p in params], m, w, [-lr / (1 - beta1**i) for i in t])


def denominators(
    v: list[Tensor], corrections: list[float], eps: float, sizes: list[int], over: Reductions
) -> list[Tensor]:
    """Return w of SET-Adam for every second moment v.

    v is divided by its maximum first: v is a squared gradient, and squaring it again would underflow in float32.

    Args:
        v: this process's parts, where the tensors are shared out.
        corrections: the 1 - beta2^t.
        sizes: d, elements of the whole tensors.
        over: reduces over whole tensors.
    """
    tiny = torch.finfo(v[0].dtype).tiny
    peak = over.largest(v)
    w = torch._foreach_div(v, torch._foreach_clamp_min(peak, tiny))
    total, norm = over.norms(w)  # v >= 0, so the 1-norm is the sum
    for i, u in enumerate(w):
        # norm >= 1 unless all of v is zero
        u.mul_(peak[i] / corrections[i] * (total[i] / norm[i].clamp_min(1.0)).square() / sizes[i])
    torch._foreach_add_(w, eps)
    torch._foreach_sqrt_(w)
    for u, least in zip(w, over.smallest(w), strict=True):
        u.sub_(least, alpha=0.5)
    return w


def _by_layout(params: list[Tensor]) -> Iterable[list[Tensor]]:
    """Return the parameters in lists of one layout: whole, or cut in one way over one mesh of processes."""
    found: dict[object, list[Tensor]] = {}
    for p in params:
        layout = (p.device_mesh, p.placements) if hasattr(p, "placements") else None
        found.setdefault(layout, []).append(p)
    return found.values()


def bounded_groups(params: list[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """Split params, in order, into lists of at most `limit` elements in total; a larger tensor is a list of its own."""
    group, size = [], 0
    for p in params:
        if group and size + p.numel() > limit:
            yield group
            group, size = [], 0
        group.append(p)
        size += p.numel()
    if group:
        yield group
