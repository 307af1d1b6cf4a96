"""A CPU that passes for an accelerator: what would wait for the device, or copy to it or from it, is listed."""

import functools
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdia.reversible.engine import passes

# Operators that read a value, or whose result's shape depends on values; by torch's own tags.
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# What goes to the host, or comes from there, without such an operator on a CPU.
METHODS = ("tolist", "cpu", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "item")
FUNCTIONS = ("tensor", "as_tensor", "from_numpy")


def _listing(function, name, waits):
    @functools.wraps(function)
    def run(*args, **kwargs):
        before = len(waits)
        out = function(*args, **kwargs)
        known = name == "numpy" and _is_random_state(args[0])
        waits[before:] = [] if known else [name]  # not the operators by which it does so too
        return out

    return run


def _is_random_state(x):
    """Whether a tensor is the state of a generator, which lies on the host whatever the device."""
    state = torch.random.default_generator.get_state()
    return (x.dtype, x.shape) == (state.dtype, state.shape)


class _Operators(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    @classmethod
    def ignore_compile_internals(cls):
        return True

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            x.dtype in (torch.bool, torch.uint8) for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)
        )
        reads = READS & set(operator.tags) and name != "index"
        if reads or masks or name in ("equal", "is_nonzero"):
            self.waits.append(name)
        return operator(*args, **(kwargs or {}))


@contextmanager
def pretend_device(monkeypatch):
    """Yield the list of the waits inside the `with`, in forward and backward; the engine reads no CPU tensor early."""
    waits = []
    with monkeypatch.context() as patched:
        patched.setattr(passes, "on_host", lambda x: False)
        for owner, names in ((torch.Tensor, METHODS), (torch, FUNCTIONS)):
            for name in names:
                patched.setattr(owner, name, _listing(getattr(owner, name), name, waits))
        with _Operators(waits):
            yield waits
