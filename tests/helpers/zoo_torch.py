"""Rows of torch's own transformer layers and of torchvision."""

from functools import partial

from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from helpers.families import BATCH, IMAGE, TOKENS, WIDTH, Family, random_tensor


def stream(batch_first: bool, seed: int = 2, tokens: int = TOKENS):
    """Random tokens, the batch first or second."""
    x = random_tensor(BATCH, tokens, WIDTH, seed=seed)
    return x if batch_first else x.transpose(0, 1)


def torch_encoder(depth: int, **options) -> nn.Module:
    """nn.TransformerEncoder; its fast path, which skips the layers, works in eval mode only."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, **options)
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(WIDTH), enable_nested_tensor=False)


def torch_decoder(depth: int, **options) -> nn.Module:
    """nn.TransformerDecoder."""
    layer = nn.TransformerDecoderLayer(WIDTH, 4, 2 * WIDTH, **options)
    return nn.TransformerDecoder(layer, depth, nn.LayerNorm(WIDTH))


def torch_rows() -> list[Family]:
    """The four layouts of both."""
    found = []
    for batch_first in (True, False):
        for norm_first in (True, False):
            options = {"batch_first": batch_first, "norm_first": norm_first}
            suffix = f"{'batch' if batch_first else 'sequence'}_first_{'pre' if norm_first else 'post'}norm"
            row = {} if batch_first else {"batch_dims": {"layers": 1}}
            alone = partial(_one_stream, batch_first)
            both = partial(_two_streams, batch_first)
            found += [
                Family(f"encoder_{suffix}", "torch", partial(torch_encoder, **options), alone, ("layers",), **row),
                Family(f"decoder_{suffix}", "torch", partial(torch_decoder, **options), both, ("layers",), **row),
            ]
    return found


def _one_stream(batch_first: bool) -> tuple[tuple, dict]:
    return (stream(batch_first),), {}


def _two_streams(batch_first: bool) -> tuple[tuple, dict]:
    return (stream(batch_first), stream(batch_first, seed=5, tokens=TOKENS // 2)), {}


def images() -> tuple[tuple, dict]:
    """A batch of images."""
    return (random_tensor(BATCH, 3, IMAGE, IMAGE),), {}


def vit(depth: int) -> nn.Module:
    """torchvision's ViT at a small size."""
    return VisionTransformer(IMAGE, 8, depth, 4, WIDTH, 2 * WIDTH, dropout=0.1, num_classes=10)


def swin(depth: int) -> nn.Module:
    """torchvision's Swin, two stages."""
    return SwinTransformer([4, 4], 16, [depth, depth], [2, 4], [4, 4], stochastic_depth_prob=0.1, num_classes=10)


def rows() -> list[Family]:
    """All of them."""
    return [
        *torch_rows(),
        Family("torchvision_vit", "torchvision", vit, images, ("encoder.layers",)),
        Family("torchvision_swin", "torchvision", swin, images, ("features.1", "features.3")),
    ]
