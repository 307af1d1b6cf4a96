"""The two layers of the small-dataset ViT that timm does not have: shifted patches and locality self-attention.

Both follow Lee, Lee, Song, "Vision Transformer for Small-Size Datasets" (arXiv 2112.13492) in the form of `vit_small`
(lucidrains/vit-pytorch, kentaroy47/vision-transformers-cifar10), the line of models that the BDIA paper builds on.
They take the constructor arguments of the timm layers they replace, so a config swaps one for the other.
B batch, C channels, T tokens, D width, H heads, P patch side.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdia.models.dropout import Dropout
from bdia.models.heads import in_head_groups

# Amounts for F.pad (left, right, top, bottom) that move the image by one pixel: right, left, down, up.
ONE_PIXEL_SHIFTS = ((1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, 1, -1), (0, 0, -1, 1))


class ShiftedPatchEmbed(nn.Module):
    """Turn the image and its four one-pixel shifts into tokens: patches of all five, LayerNorm, linear.

    Pixels shifted in from outside are zero. The numbers of one patch are ordered (row, column, shift, channel).

    Args:
        img_size: side of the square image, pixels; a multiple of patch_size.
        patch_size: side P of the square patch, pixels.
        in_chans: C, channels of the image.
        embed_dim: D, width of a token.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.num_patches = (img_size // patch_size) ** 2
        patch_dim = (1 + len(ONE_PIXEL_SHIFTS)) * in_chans * patch_size**2
        self.norm = nn.LayerNorm(patch_dim)
        self.proj = nn.Linear(patch_dim, embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens (B, T, D) of an image (B, C, height, width), patch row by patch row."""
        views = torch.cat([image, *(F.pad(image, shift) for shift in ONE_PIXEL_SHIFTS)], dim=1)
        side = self.patch_size
        patches = views.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (B, 5C, rows, P, columns, P)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return self.proj(self.norm(patches))


class LocalitySelfAttention(nn.Module):
    """Multi-head self-attention with a learned temperature, in which no token attends to itself.

    softmax(exp(temperature) q k^T with the own-token logits masked out) v, then a linear projection and dropout.
    One temperature per layer, stored as its logarithm and starting at head_dim^-0.5. No bias on q, k, v, and no
    dropout on the attention probabilities: the paper's line of models has neither.

    Args:
        dim: D, width of the residual stream.
        num_heads: H.
        attn_head_dim: width of one head.
        proj_drop: dropout rate on the output.
    Memory: PyTorch's fused attention keeps no (B, H, T, T) tensor for backward; the mask is (T, T).
    """

    def __init__(self, dim: int, num_heads: int, attn_head_dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = attn_head_dim
        inner = num_heads * attn_head_dim
        self.temperature = nn.Parameter(torch.empty(()))
        self.reset_parameters()
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, dim)
        self.proj_drop = Dropout(proj_drop)

    def reset_parameters(self) -> None:
        """Set the temperature to what training starts from; the linear layers have methods of their own."""
        nn.init.constant_(self.temperature, math.log(self.head_dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention branch (B, T, D) of x (B, T, D); needs at least two tokens."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = self._mix(q, k, v, other_tokens(x))
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def forward_in_parts(self, parts: int, run: Callable[..., Tensor], x: Tensor) -> Tensor:
        """Compute `forward` in `parts` groups of heads, for `stack.tile`; see `in_head_groups`."""
        out = in_head_groups(self._mix, self.qkv, self.num_heads, parts, run, x, other_tokens(x))
        return self.proj_drop(self.proj(out))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q * self.temperature.exp(), k, v, attn_mask=mask, scale=1.0)


def reset_parts(model: nn.Module) -> None:
    """Draw the weights of every part anew that knows how, in the order in which they are registered."""
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def other_tokens(x: Tensor) -> Tensor:
    """Return the (T, T) boolean mask for x (B, T, D) that is False on the diagonal: everyone but oneself."""
    index = torch.arange(x.shape[1], device=x.device)
    return index[:, None] != index
