"""Vision transformer of the paper, built from timm's layers; the stack and the variants come from the config.

B batch, C channels, T tokens (patches + class token), D width, H heads, K blocks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bdia import InvalidValueError
from bdia.models.blocks import Block, feed_forward
from bdia.models.dropout import Dropout
from bdia.models.layers import LocalitySelfAttention, ShiftedPatchEmbed, reset_parts


class VisionTransformer(nn.Module):
    """Image classifier: tokens, class token and learned positions, K blocks on a stack, linear head.

    The defaults are the paper's model, 9,622,512 parameters. Initialisation is that of its line of models: PyTorch's
    default for every layer, standard normal for the class token and the positions.
    Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), experiments on CIFAR; `vit_small` of the small-dataset ViTs.

    Args:
        stack: called with the list of blocks, returns the stack: a module (B, T, D) -> (B, T, D * stack.streams).
        img_size, patch_size: sides of the square image and patch, pixels.
        width, depth, heads, head_dim, mlp_hidden: D, K, H, width of one head, hidden width of the MLP.
        num_classes: classes told apart.
        dropout: rate on the embedding, the attention output and both layers of the MLP.
        drop_path: stochastic-depth rate of the last block; it grows linearly from 0 at the first.
        attention: class called with (D, num_heads=, attn_head_dim=, proj_drop=).
        tokenizer: class called with (img_size=, patch_size=, in_chans=, embed_dim=); its `num_patches` is read.
        in_chans: C, channels of the image.
    Raises:
        ValueError: img_size is not a multiple of patch_size.
    """

    def __init__(
        self,
        stack: Callable[[list[nn.Module]], nn.Module],
        img_size: int = 32,
        patch_size: int = 4,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        head_dim: int = 64,
        mlp_hidden: int = 512,
        num_classes: int = 10,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        attention: Callable[..., nn.Module] = LocalitySelfAttention,
        tokenizer: Callable[..., nn.Module] = ShiftedPatchEmbed,
        in_chans: int = 3,
    ):
        super().__init__()
        if img_size % patch_size:
            raise InvalidValueError(
                f"an image of {img_size} pixels is not a whole number of patches of {patch_size}; "
                "change model.net.patch_size or model.net.img_size"
            )
        self.image_shape = (in_chans, img_size, img_size)
        self.tokens = tokenizer(img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, self.tokens.num_patches + 1, width))
        self.dropout = Dropout(dropout)
        self.blocks = stack(
            [
                Block(
                    width,
                    attention(width, num_heads=heads, attn_head_dim=head_dim, proj_drop=dropout),
                    feed_forward(width, mlp_hidden, dropout, hidden_dropout=dropout),
                    drop_path * k / max(depth - 1, 1),
                )
                for k in range(depth)
            ]
        )
        self.norm = nn.LayerNorm(width * self.blocks.streams)
        self.head = nn.Linear(width * self.blocks.streams, num_classes)

    def init_weights(self) -> None:
        """Draw all weights anew: after `to_empty`, for a model that was built on torch's meta device."""
        reset_parts(self)
        nn.init.normal_(self.cls_token)
        nn.init.normal_(self.pos_embed)

    def embed(self, image: Tensor) -> Tensor:
        """Return x_0 (B, T, D), the class token first, for an image (B, C, img_size, img_size)."""
        patches = self.tokens(image)
        x = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return self.dropout(x + self.pos_embed)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of an image (B, C, img_size, img_size)."""
        x = self.blocks(self.embed(image))
        return self.head(self.norm(x[:, 0]))
