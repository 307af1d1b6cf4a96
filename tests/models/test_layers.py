"""Shifted patch tokenisation and locality self-attention against slow references. B, C, T, D, H as in layers.py."""

import math

import pytest
import torch
from torch import nn

from bdia.models.layers import LocalitySelfAttention, ShiftedPatchEmbed, other_tokens


def reference_shifted_tokens(layer, image, side):
    """Read every number of every patch by its pixel coordinates; outside the image is zero."""
    batch, channels, height, width = image.shape
    moves = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]  # where view i reads from: itself, left, right, above, below
    tokens = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            patch = torch.zeros(batch, side, side, len(moves), channels)
            for i in range(side):
                for j in range(side):
                    for view, (down, right) in enumerate(moves):
                        row, column = top + i + down, left + j + right
                        if 0 <= row < height and 0 <= column < width:
                            patch[:, i, j, view] = image[:, :, row, column]
            tokens.append(patch.flatten(1))
    return layer.proj(layer.norm(torch.stack(tokens, dim=1)))


def reference_attention(layer, x):
    """Softmax over explicit (B, H, T, T) logits with -inf for the own token; the logits are returned too."""
    batch, tokens, _ = x.shape
    q, k, v = layer.qkv(x).view(batch, tokens, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)
    logits = (q @ k.transpose(-1, -2)) * layer.temperature.exp()
    logits = logits.masked_fill(torch.eye(tokens, dtype=torch.bool), -math.inf)
    return layer.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, -1))


def gradients(layer, function, x):
    x = x.clone().requires_grad_()
    out = function(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out, torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])


@pytest.mark.parametrize(("size", "side", "channels"), [(8, 4, 3), (6, 2, 1), (4, 4, 2)])
def test_shifted_patches_equal_the_pixel_by_pixel_reference(size, side, channels):
    torch.manual_seed(0)
    layer = ShiftedPatchEmbed(img_size=size, patch_size=side, in_chans=channels, embed_dim=5)
    image = torch.randn(2, channels, size, size)
    found = layer(image)
    assert found.shape == (2, layer.num_patches, 5)
    torch.testing.assert_close(found, reference_shifted_tokens(layer, image, side), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 8), (4, 16)])
def test_locality_attention_and_its_gradients_equal_the_naive_softmax(heads, head_dim):
    torch.manual_seed(0)
    layer = LocalitySelfAttention(12, num_heads=heads, attn_head_dim=head_dim).double()
    nn.init.constant_(layer.temperature, 0.3)  # away from the start, so that a fixed scale would be seen
    x = torch.randn(2, 5, 12, dtype=torch.double)
    found, found_grads = gradients(layer, layer, x)
    wanted, wanted_grads = gradients(layer, lambda z: reference_attention(layer, z), x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    for a, b in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert found_grads[1].abs() > 1e-3  # the temperature's own gradient, so the comparison is not 0 == 0


def test_temperature_starts_at_the_usual_scale():
    layer = LocalitySelfAttention(8, num_heads=2, attn_head_dim=64)
    assert layer.temperature.exp().item() == pytest.approx(64**-0.5)


def test_a_token_does_not_read_its_own_value():
    """With two tokens each must return exactly the other's value."""
    torch.manual_seed(0)
    layer = LocalitySelfAttention(6, num_heads=1, attn_head_dim=6)
    x = torch.randn(1, 2, 6)
    value = layer.qkv(x)[..., 12:]
    torch.testing.assert_close(layer(x), layer.proj(value.flip(1)))
    assert torch.equal(other_tokens(x), torch.tensor([[False, True], [True, False]]))


def test_locality_attention_under_bfloat16_autocast_stays_near_float32():
    torch.manual_seed(0)
    layer, x = LocalitySelfAttention(32, num_heads=2, attn_head_dim=16), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), rtol=0.05, atol=0.02)
