"""The attention and MLP branches of a residual block, for stacks that chain branches instead of blocks (RevViT)."""

from collections.abc import Callable

from torch import Tensor, nn

Branch = Callable[..., Tensor]

_TIMM_NAMES = ("norm1", "attn", "norm2", "mlp")


def branches(block: nn.Module) -> tuple[Branch, Branch]:
    """Return (attention, MLP) so that a standard block is x + attention(x), then x + mlp(x).

    Reads timm-like blocks (norm1, attn, norm2, mlp, with optional ls1, drop_path1, ls2, drop_path2), or calls
    `block.branches()` where a block has that method. Extra block inputs go to the attention branch.

    Raises:
        TypeError: the block shows neither.
    """
    if hasattr(block, "branches"):
        return block.branches()
    missing = [name for name in _TIMM_NAMES if not hasattr(block, name)]
    if missing:
        raise TypeError(
            f"{type(block).__name__} has no {', '.join(missing)}: RevVitStack needs timm-like blocks or a method "
            "branches() -> (attention, mlp); choose another stack, or add it"
        )

    def half(norm: str, branch: str, scale: str, drop: str) -> Branch:
        identity = nn.Identity()
        after = [getattr(block, scale, identity), getattr(block, drop, identity)]

        def run(x: Tensor, *args: object, **kwargs: object) -> Tensor:
            y = getattr(block, branch)(getattr(block, norm)(x), *args, **kwargs)
            for module in after:
                y = module(y)
            return y

        return run

    mlp = half("norm2", "mlp", "ls2", "drop_path2")
    return half("norm1", "attn", "ls1", "drop_path1"), lambda x, *args, **kwargs: mlp(x)
