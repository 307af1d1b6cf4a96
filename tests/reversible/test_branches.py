"""Reading the two branches of a block."""

import pytest
import torch
from torch import nn

from bdia.reversible import RevVitStack
from bdia.reversible.stacks.branches import branches
from helpers.reversible_helpers import D, TinyBlock, make_tokens


class Scale(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x * self.value


@pytest.mark.parametrize("scales", [False, True])
def test_the_two_branches_chained_are_the_block(scales):
    torch.manual_seed(0)
    block = TinyBlock()
    if scales:  # timm's LayerScale
        block.ls1, block.ls2 = Scale(0.5), Scale(2.0)
    attention, mlp = branches(block)
    x = make_tokens()
    after_attention = x + attention(x)
    found = after_attention + mlp(after_attention)
    wanted = x + (0.5 if scales else 1) * block.attn(block.norm1(x))
    wanted = wanted + (2.0 if scales else 1) * block.mlp(block.norm2(wanted))
    assert torch.equal(found, wanted)


def test_drop_path_belongs_to_its_branch():
    block = TinyBlock(drop_path=0.5).train()
    attention, mlp = branches(block)
    x = torch.randn(200, 2, D)
    for branch in (attention, mlp):
        dropped = (branch(x) == 0).flatten(1).all(dim=1).float().mean()
        assert 0.3 < dropped < 0.7


def test_extra_inputs_go_to_attention_only():
    block, context = TinyBlock(), make_tokens(2)
    attention, mlp = branches(block)
    x = make_tokens()
    assert torch.equal(attention(x, context), block.attn(block.norm1(x), context))
    assert torch.equal(mlp(x, context, mask=None), mlp(x))


def test_a_block_may_bring_its_own_branches():
    class Own(nn.Module):
        def branches(self):
            return torch.sin, torch.cos

    assert branches(Own()) == (torch.sin, torch.cos)


def test_a_block_without_branches_is_refused_when_the_stack_is_built():
    with pytest.raises(TypeError, match=r"Linear has no norm1, attn, norm2, mlp.*branches\(\)"):
        RevVitStack([TinyBlock(), nn.Linear(D, D)])
    partial = TinyBlock()
    del partial.norm2
    with pytest.raises(TypeError, match="TinyBlock has no norm2:"):
        branches(partial)


def test_a_block_with_more_than_the_named_parts_is_refused():
    block = TinyBlock()
    block.gamma_1 = nn.Parameter(torch.ones(D))  # a layer scale that reading the branches would leave out
    with pytest.raises(TypeError, match=r"also gamma_1.*timm's pre-norm Block"):
        branches(block)


def test_a_post_norm_block_is_refused():
    ResPostBlock = type("ResPostBlock", (TinyBlock,), {})
    with pytest.raises(TypeError, match="its norms last"):
        branches(ResPostBlock())
