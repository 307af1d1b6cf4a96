"""What no other library has, the stacks, as plain loops over their blocks."""

import copy

import torch
from torch import Tensor, nn

from bdia import InvalidValueError
from bdia.reversible import BdiaStack, BlockStack, RevVitStack, revert
from bdia.reversible.arithmetic.grid import quantize
from bdia.reversible.stacks.bdia import BdiaUpdates
from bdia.reversible.stacks.branches import branches
from bdia.reversible.stacks.engage import engaged

TORCH = "format=torch holds any model"


class PlainLoop(nn.Sequential):
    """A stack in `eval()`, without the engine: the blocks in turn, the stream rounded to the grid where bits is set."""

    def __init__(self, stack: BlockStack, bits: int | None) -> None:
        super().__init__(*stack.blocks)
        self.bits = bits

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Return the stream behind the last block."""
        x = self._rounded(x)
        for block in self:
            x = self._rounded(block(x, *args, **kwargs))
        return x

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.bits is None else quantize(x, self.bits)


class _PlainRevVit(PlainLoop):
    """RevViT's two streams, without the engine."""

    def __init__(self, stack: RevVitStack) -> None:
        super().__init__(stack, stack.bits)
        self.merge = stack.merge

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        x_prev = x_curr = self._rounded(x)
        for block in self:
            for branch in branches(block):
                x_prev, x_curr = x_curr, x_prev + self._rounded(branch(x_curr, *args, **kwargs))
        return torch.cat([x_prev, x_curr], dim=-1) if self.merge == "concat" else (x_prev + x_curr) / 2


def plain(net: nn.Module, format: str, drop_rounding: bool) -> nn.Module:
    """Return a copy on the CPU, in `eval()`: a converted model is reverted, stacks are plain loops over their blocks.

    Raises:
        ValueError: an inference that the format cannot hold.
    """
    net = copy.deepcopy(net).cpu().eval()
    for module in net.modules():
        owner = None if (forward := engaged(module)) is None else forward.owner
        if isinstance(owner, BdiaUpdates) and _rounding(owner, drop_rounding) is not None:
            raise InvalidValueError(_cannot_round(owner, f"format={format} of a converted model"))
    revert(net)
    if isinstance(net, BlockStack):
        return _plain_stack(net, format, drop_rounding)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BlockStack):
                setattr(module, name, _plain_stack(child, format, drop_rounding))
    return net


def _plain_stack(stack: BlockStack, format: str, drop_rounding: bool) -> nn.Module:
    if isinstance(stack, RevVitStack):
        if format != "torch":
            raise InvalidValueError(f"RevVitStack has two streams, which {format} cannot hold: {TORCH}")
        return _PlainRevVit(stack)
    bits = _rounding(stack, drop_rounding) if isinstance(stack, BdiaStack) else None
    if bits is not None and format != "torch":
        raise InvalidValueError(f"{_cannot_round(stack, format)}; {TORCH}")
    return PlainLoop(stack, bits)


def _rounding(updates: BdiaUpdates, drop_rounding: bool) -> int | None:
    """Return the bits that the stream is rounded to at inference, None where it is not or need not be.

    Raises:
        ValueError: the inference is not the standard model's.
    """
    if updates.eval_gamma:
        raise InvalidValueError(
            f"eval_gamma={updates.eval_gamma}: the model differs from the standard one at inference; "
            f"set {updates.prefix}eval_gamma=0"
        )
    return updates.bits if updates.quantize_eval and not drop_rounding else None


def _cannot_round(updates: BdiaUpdates, holder: str) -> str:
    return (
        f"quantize_eval=True rounds the stream to 2^-{updates.bits} at inference, which {holder} cannot hold: set "
        "drop_rounding=true for the model without it, and measure it without it (quantize_eval=False)"
    )
