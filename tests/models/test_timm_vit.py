"""timm's models on our stacks."""

import pytest
import timm
import torch

from bdia.models import timm_vit
from helpers.plain_stack import PlainStack

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}


class TwoStreamStack(PlainStack):
    """A stack that says it returns two streams."""

    streams = 2


class CountingStack(PlainStack):
    """Counts its calls, to see that timm leaves the loop over the blocks to the stack."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_forward_and_weights_equal_timms_own_model():
    torch.manual_seed(0)
    wanted = timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL).eval()
    found = timm_vit("vit_tiny_patch16_224", CountingStack, num_classes=5, **SMALL).eval()
    found.load_state_dict(wanted.state_dict())
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(found(image), wanted(image))
    assert found.blocks.calls == 1


def test_two_streams_are_refused_with_the_option_that_merges_them():
    with pytest.raises(ValueError, match=r"2 streams.*stack\.merge=mean"):
        timm_vit("vit_tiny_patch16_224", TwoStreamStack, num_classes=5, **SMALL)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "eva02_tiny_patch14_224"])
def test_model_without_vit_blocks_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name}.*model\.net\.name"):
        timm_vit(name, PlainStack, num_classes=5)
