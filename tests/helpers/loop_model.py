"""A model that loops over its layers itself, one step of it, and a comparison of reversible and stored training."""

import torch
from torch import nn

import bdia
from helpers.reversible_helpers import D, TinyBlock, assert_bit_equal, loss_of, make_tokens


class LoopModel(nn.Module):
    """A model that loops over its layers itself; `between` is what it does with the stream between two of them."""

    def __init__(self, depth=5, dropout=0.1, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.between = nn.ModuleList([TinyBlock(D, dropout) for _ in range(depth)]), between

    def forward(self, x):
        for k, layer in enumerate(self.layers):
            x = layer(x)
            x = x if self.between is None else self.between(x, k)
        return x


def step(model, x, seed=0, loss=loss_of):
    """Loss and gradients of one training step, after a seed."""
    model.zero_grad()
    x.grad = None
    torch.manual_seed(seed)
    out = model(x)
    loss(out).backward()
    return [out.detach().clone(), *(t.grad.clone() for t in (x, *model.parameters()) if t.grad is not None)]


def compare(make, x=None, **settings):
    """Assert that a converted model has the gradients of the same model converted with everything stored."""
    x = make_tokens() if x is None else x
    stored, reversible = make(), make()
    bdia.convert(stored, backward="stored", layers="layers", gamma=settings.get("gamma"))
    report = bdia.convert(reversible, layers="layers", **settings)
    wanted = step(stored, x)
    assert_bit_equal(step(reversible, x), wanted)
    return report
