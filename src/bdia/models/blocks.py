"""Pre-norm residual blocks, made of branches that any stack can chain. B batch, T tokens, S source tokens, D width."""

from collections.abc import Callable

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from bdia.models.attention import CrossAttention, KeyValueCache, SelfAttention
from bdia.models.dropout import Dropout


class Block(nn.Module):
    """Pre-norm residual block, y = x + attention branch + MLP branch, with the attribute names of timm's Block.

    Args:
        width: D.
        attn: module (B, T, D, further inputs) -> (B, T, D).
        mlp: module (B, T, D) -> (B, T, D).
        drop_path: probability that a sample skips a branch (stochastic depth).
    """

    def __init__(self, width: int, attn: nn.Module, mlp: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.norm1, self.attn, self.ls1, self.drop_path1 = nn.LayerNorm(width), attn, nn.Identity(), DropPath(drop_path)
        self.norm2, self.mlp, self.ls2, self.drop_path2 = nn.LayerNorm(width), mlp, nn.Identity(), DropPath(drop_path)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Return y (B, T, D) for x (B, T, D), which is not changed; further inputs go to the attention."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), *args, **kwargs)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class DecoderBlock(nn.Module):
    """Pre-norm decoder block: causal self-attention, attention over the encoder's output, MLP.

    Args:
        width: D.
        attn, cross_attn: the two attentions; mlp: module (B, T, D) -> (B, T, D).
    """

    def __init__(self, width: int, attn: SelfAttention, cross_attn: CrossAttention, mlp: nn.Module):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), attn
        self.norm_cross, self.cross_attn = nn.LayerNorm(width), cross_attn
        self.norm2, self.mlp = nn.LayerNorm(width), mlp

    def forward(self, x: Tensor, memory: Tensor, memory_mask: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return y (B, T, D) for x (B, T, D) and the encoder's output (B, S, D) under its mask (B, 1, 1, S)."""
        x = x + self._attention(x, memory, memory_mask, cache)
        return x + self._mlp(x)

    def branches(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Return (both attentions, MLP), for stacks that chain branches."""
        return self._attention, self._mlp

    def _attention(self, x: Tensor, memory: Tensor, memory_mask: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        own = self.attn(self.norm1(x), cache=cache)
        return own + self.cross_attn(self.norm_cross(x + own), memory, memory_mask, cache)

    def _mlp(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self.mlp(self.norm2(x))


def feed_forward(
    width: int, hidden: int, dropout: float, hidden_dropout: float, activation: Callable[[], nn.Module] = nn.GELU
) -> Mlp:
    """Return timm's MLP with our dropout: `hidden_dropout` inside, `dropout` on the output."""
    mlp = Mlp(width, hidden, act_layer=activation)
    mlp.drop1, mlp.drop2 = Dropout(hidden_dropout), Dropout(dropout)
    return mlp


class MergeStreams(nn.Module):
    """What follows a stack: LayerNorm over all its streams, and where there are several, a linear map to one width.

    Args:
        width: D.
        streams: of the stack; a one-stream model has the plain final LayerNorm.
    """

    def __init__(self, width: int, streams: int):
        super().__init__()
        self.norm = nn.LayerNorm(width * streams)
        self.merge = nn.Identity() if streams == 1 else nn.Linear(width * streams, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, streams * D) -> (B, T, D)."""
        return self.merge(self.norm(x))
