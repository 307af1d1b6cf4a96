"""What CUDA graphs refuse, listed on a CPU: other work from step to step, and random state that is read or set."""

import functools
import random
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RANDOM_STATE = ("get_rng_state", "set_rng_state", "manual_seed", "seed", "initial_seed")


class Work(TorchDispatchMode):
    """Lists every operator with the size of the memory of what it returns: what a graph would replay."""

    def __init__(self):
        super().__init__()
        self.done = []

    @classmethod
    def ignore_compile_internals(cls):
        return True

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.done.append((operator._schema.name, *sizes))
        return out


@contextmanager
def random_state_calls(monkeypatch):
    """Yield the names of torch's functions on random states called inside, and of Python's and NumPy's draws."""
    calls = []
    before = random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]

    def noting(name, function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return run

    with monkeypatch.context() as patched:
        for name in RANDOM_STATE:
            for module in (torch, torch.random):
                patched.setattr(module, name, noting(name, getattr(module, name)))
        yield calls
    after = random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    calls.extend(name for name, a, b in zip(("random", "numpy", "numpy"), before, after, strict=True) if a != b)
