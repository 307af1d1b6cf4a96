"""Blocks and measurements that the tests of the reversible engine share. B batch, T tokens, D width, K blocks."""

import gc
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdia.reversible import Gamma, TwoPoint

B, T, D = 2, 5, 16
HALF = TwoPoint("1/2")


class DropSamples(nn.Module):
    """Stochastic depth: drop the branch for whole samples."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, y):
        if not self.training or not self.rate:
            return y
        return y * torch.bernoulli(y.new_full((y.shape[0], 1, 1), 1 - self.rate)) / (1 - self.rate)


class TinyAttention(nn.Module):
    """One head; `context` (encoder output) is added to the keys, `bias` to the values, `mask` hides tokens."""

    def __init__(self, width, dropout):
        super().__init__()
        self.qkv, self.proj, self.drop = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, x, context=None, mask=None, bias=None):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        k = k if context is None else k + context
        v = v if bias is None else v + bias
        return self.drop(self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class TinyBlock(nn.Module):
    """A pre-norm transformer block with timm's attribute names."""

    def __init__(self, width=D, dropout=0.0, drop_path=0.0):
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = (
            nn.LayerNorm(width),
            TinyAttention(width, dropout),
            DropSamples(drop_path),
        )
        self.norm2, self.drop_path2 = nn.LayerNorm(width), DropSamples(drop_path)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, x, *args, **kwargs):
        x = x + self.drop_path1(self.attn(self.norm1(x), *args, **kwargs))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Call(nn.Module):
    """A block from a plain function of x, with an optional parameter `weight` of shape (D,)."""

    def __init__(self, function, width=D):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.linspace(-0.5, 0.5, width))

    def forward(self, x):
        return self.function(self, x)


def bend(self, x):
    return x + torch.sin(x * self.weight)


def small_blocks(depth, width):
    """Blocks with few parameters, whose own activations are two streams; with the sum, plain autograd stores three."""
    return [Call(bend, width) for _ in range(depth)]


def make_blocks(depth, dropout=0.0, drop_path=0.0, seed=0, width=D):
    """`depth` blocks with the same weights for the same seed."""
    torch.manual_seed(seed)
    return [TinyBlock(width, dropout, drop_path) for _ in range(depth)]


def make_tokens(seed=1, shape=(B, T, D)):
    """Random tokens that need a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def loss_of(out):
    """A loss whose gradient differs from value to value."""
    return (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + out.float().square().mean()


def gradients(stack, x, *args, seed=0, extra=(), steps=1, autocast=None, **kwargs):
    """Run `steps` forward and backward passes; return the output and the gradients of x, `extra`, every parameter."""
    wanted = [x, *extra, *stack.parameters()]
    for tensor in wanted:
        tensor.grad = None
    torch.manual_seed(seed)
    for _ in range(steps):
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            out = stack(x, *args, **kwargs)
        loss_of(out).backward()
    return [out.detach().clone(), *(None if t.grad is None else t.grad.clone() for t in wanted)]


def assert_bit_equal(found, wanted):
    """Every tensor (or None) equal bit for bit, and at least one gradient not zero."""
    assert_equal_tensors(found, wanted)
    assert any(t is not None and t.abs().sum() > 0 for t in found[1:])


def assert_equal_tensors(found, wanted):
    """Every tensor (or None) equal bit for bit."""
    assert len(found) == len(wanted)
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        same = a is b if a is None or b is None else torch.equal(a, b)
        assert same, f"tensor {index} differs" + ("" if a is None or b is None else f" by {(a - b).abs().max()}")


def assert_same_output_and_close_gradients(found, wanted):
    """For plain autograd as the oracle: it adds the three gradients that meet in a stream in another order."""
    assert torch.equal(found[0], wanted[0])
    scale = max(g.abs().max().item() for g in wanted[1:])
    assert scale > 0
    for a, b in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * scale)


def gamma_of(*values):
    """Gamma from fractions, one per sample."""
    fractions = [Fraction(value) for value in values]
    return Gamma(
        *(
            torch.tensor(part, dtype=torch.int32)
            for part in zip(*(f.as_integer_ratio() for f in fractions), strict=True)
        )
    )


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of every tensor storage made inside the `with` and still alive; `known` are made before it."""

    def __init__(self, stack, x):
        super().__init__()
        self.refs, self.known = {}, {t.untyped_storage()._cdata for t in (x, *stack.parameters())}

    def __enter__(self):
        gc.freeze()  # gc.get_objects then lists only what is made inside
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            self.note(leaf)
        return out

    def note(self, leaf):
        """Remember the storage of a tensor made inside."""
        key = leaf.untyped_storage()._cdata if isinstance(leaf, torch.Tensor) else None
        if key and key not in self.known and (key not in self.refs or self.refs[key].expired()):
            self.refs[key] = StorageWeakRef(leaf.untyped_storage())

    def sizes(self):
        """Bytes of each live storage."""
        self.refs = {key: ref for key, ref in self.refs.items() if not ref.expired()}
        return [torch.UntypedStorage._new_with_weak_ptr(ref.cdata).nbytes() for ref in self.refs.values()]

    def total(self):
        """Live bytes of what went through the dispatcher."""
        return sum(self.sizes())

    def census(self):
        """Live bytes after adding the tensors that Python sees but the dispatcher did not (random states)."""
        for leaf in gc.get_objects():
            if type(leaf) is torch.Tensor:
                self.note(leaf)
        return self.total()


class PeakStorages(LiveStorages):
    """Also keeps the largest total seen after any operation."""

    peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(function, types, args, kwargs)
        self.peak = max(self.peak, self.total())
        return out


def bytes_held(stack, shape):
    """Bytes alive between forward and backward, parameters and input not counted, the output counted."""
    x = torch.zeros(shape)
    with LiveStorages(stack, x) as live:
        out = stack(x)
        gc.collect()
        total = live.census()
    del out
    return total
