"""VisionTransformer and its configs. B batch, C channels, T tokens, D width, K blocks."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from bdia.models import LocalitySelfAttention, ShiftedPatchEmbed, VisionTransformer
from helpers.places import CONFIGS
from helpers.plain_stack import PlainStack

PARAMETERS = {
    "vit_paper": 9_622_512,
    "vit_cpu": 921_360,
    "vit_demo": 265_040,
    "vit_plain": 9_523_722,
    "timm_vit": 5_362_762,
}


class TwoStreamStack(PlainStack):
    """Two streams side by side, as RevViT returns them."""

    streams = 2

    def forward(self, x):
        return torch.cat([super().forward(x), x], dim=-1)


def small_vit(stack=PlainStack, **options):
    torch.manual_seed(0)
    size = {"img_size": 8, "width": 12, "depth": 3, "heads": 2, "head_dim": 6, "mlp_hidden": 10, "num_classes": 7}
    return VisionTransformer(stack, **(size | options))


def images(batch=3, channels=3, size=8):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def build_net(name, stack=PlainStack):
    """Build a config's net the way bdia.build does: the stack and num_classes come from outside the file."""
    net = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml").net
    assert OmegaConf.to_container(net)["stack"] == "${stack}"
    del net["stack"]
    return instantiate(net, _partial_=True)(stack=stack, num_classes=10)


def test_paper_model_has_the_parameters_of_its_line_of_models():
    """9,622,512, to the parameter, as in `vit_small` of kentaroy47/vision-transformers-cifar10.

    Shifted patches 2*240 + 240*512 + 512; class token 512; positions 65*512; per block two LayerNorms 2*2*512,
    q, k, v 3*512*512 without bias, one temperature, output 512*512 + 512, MLP 2*(512*512 + 512); head 2*512 + 5,130.
    """
    block = 4 * 512 + 3 * 512**2 + 1 + 3 * (512**2 + 512)
    wanted = (2 * 240 + 240 * 512 + 512) + 66 * 512 + 6 * block + (2 * 512 + 512 * 10 + 10)
    found = sum(p.numel() for p in VisionTransformer(PlainStack).parameters())
    assert found == wanted == PARAMETERS["vit_paper"]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_model_config_builds_classifies_and_has_the_parameters_its_header_states(name):
    net = build_net(name)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    assert f"{PARAMETERS[name]:,} parameters" in (CONFIGS / "model" / f"{name}.yaml").read_text().splitlines()[0]
    assert net.eval()(images(batch=1, size=32)).shape == (1, 10)


@pytest.mark.parametrize("tokenizer", [ShiftedPatchEmbed, PatchEmbed])
@pytest.mark.parametrize("attention", [LocalitySelfAttention, Attention])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_parameter_gets_a_finite_gradient(tokenizer, attention, channels):
    model = small_vit(tokenizer=tokenizer, attention=attention, in_chans=channels, drop_path=0.1)
    logits = model(images(channels=channels))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.blocks.parameters())


def test_head_reads_all_streams_of_the_stack():
    model = small_vit(TwoStreamStack)
    assert model.head.in_features == model.norm.normalized_shape[0] == 24
    assert model(images()).shape == (3, 7)


def test_block_is_residual_and_leaves_its_input_alone():
    block, x = small_vit().blocks[0].eval(), torch.randn(2, 5, 12)
    before = x.clone()
    y = block(x)
    assert torch.equal(x, before)
    middle = x + block.attn(block.norm1(x))
    assert torch.equal(y, middle + block.mlp(block.norm2(middle)))


def test_block_has_the_attributes_and_the_result_of_timms_block():
    """RevVitStack reads the two branches by these names; equal results with equal weights prove the meaning."""
    torch.manual_seed(0)
    wanted = TimmBlock(12, num_heads=2, mlp_ratio=2.0, norm_layer=nn.LayerNorm)
    found = small_vit(attention=Attention, mlp_hidden=24).blocks[0].eval()
    found.load_state_dict(wanted.state_dict())
    for name in ["norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"]:
        assert isinstance(getattr(found, name), nn.Module)
    x = torch.randn(2, 5, 12)
    assert torch.equal(found(x), wanted.eval()(x))


def test_recomputed_block_repeats_its_dropout_bit_for_bit():
    model, x = small_vit(dropout=0.3, drop_path=0.5), torch.randn(4, 5, 12)

    def run(apply):
        torch.manual_seed(3)
        z = x.clone().requires_grad_()
        y = z
        for block in model.blocks:
            y = apply(block, y)
        return y, *torch.autograd.grad(y.square().sum(), [z, *model.blocks.parameters()])

    stored = run(lambda block, z: block(z))
    recomputed = run(lambda block, z: checkpoint(block, z, use_reentrant=False))
    assert all(torch.equal(a, b) for a, b in zip(stored, recomputed, strict=True))


def test_dropout_acts_in_training_only_and_drop_path_grows_with_depth():
    model = small_vit(dropout=0.1, drop_path=0.2)
    assert not torch.equal(model(images()), model(images()))
    model.eval()
    assert torch.equal(model(images()), model(images()))
    assert [block.drop_path1.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.1}


def test_image_that_is_not_whole_patches_is_refused_by_the_config_key():
    with pytest.raises(ValueError, match=r"10 pixels.*patches of 4.*model\.net\.patch_size"):
        small_vit(img_size=10)
