"""The attention and MLP branches of a residual block, for stacks that chain branches instead of blocks (RevViT)."""

from collections.abc import Callable

from torch import Tensor, nn

from bdia import InvalidTypeError

Branch = Callable[..., Tensor]

_TIMM_NAMES = ("norm1", "attn", "norm2", "mlp")
_TIMM_OPTIONS = ("ls1", "drop_path1", "ls2", "drop_path2")


def branches(block: nn.Module) -> tuple[Branch, Branch]:
    """Return (attention, MLP) so that a standard block is x + attention(x), then x + mlp(x).

    Reads pre-norm blocks like timm's `Block` (norm1, attn, norm2, mlp, with optional ls1, drop_path1, ls2, drop_path2),
    or calls `block.branches()` where a block has that method. Extra block inputs go to the attention branch.

    Raises:
        TypeError: the block shows neither, or holds more than these parts, which its branches would leave out.
    """
    own: Callable[[], tuple[Branch, Branch]] | None = getattr(block, "branches", None)
    if own is not None:
        return own()
    missing = [name for name in _TIMM_NAMES if not hasattr(block, name)]
    held = {name.partition(".")[0] for name, _ in block.named_parameters()}
    extra = sorted(held - {*_TIMM_NAMES, *_TIMM_OPTIONS})
    post_norm = type(block).__name__ == "ResPostBlock"  # timm's post-norm block has the same names
    if missing or extra or post_norm:
        reason = f"no {', '.join(missing)}" if missing else f"also {', '.join(extra)}" if extra else "its norms last"
        raise InvalidTypeError(
            f"{type(block).__name__} has {reason}: RevVitStack needs timm's pre-norm Block or a method branches() -> "
            "(attention, mlp); choose another stack, or add it"
        )

    def half(norm: str, branch: str, scale: str, drop: str) -> Branch:
        identity = nn.Identity()
        after = [getattr(block, scale, identity), getattr(block, drop, identity)]

        def run(x: Tensor, *args: object, **kwargs: object) -> Tensor:
            y: Tensor = getattr(block, branch)(getattr(block, norm)(x), *args, **kwargs)
            for module in after:
                y = module(y)
            return y

        return run

    mlp = half("norm2", "mlp", "ls2", "drop_path2")
    return half("norm1", "attn", "ls1", "drop_path1"), lambda x, *args, **kwargs: mlp(x)
