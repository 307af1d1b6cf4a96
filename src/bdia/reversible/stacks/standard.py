"""The standard transformer: no grid, no recomputation."""

from torch import Tensor

from bdia.reversible.stacks.base import BlockStack


class StandardStack(BlockStack):
    """x_{k+1} = block_k(x_k); autograd stores every activation."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override] # more arguments
        """(B, T, D) -> (B, T, D)."""
        for block in self:
            x = block(x, *args, **kwargs)
        return x
