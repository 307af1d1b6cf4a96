"""Refuse what waits for the device, on CUDA."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def refused_waits() -> Iterator[None]:
    """Raise RuntimeError at an operation that waits for the device; afterwards nothing is refused, whatever happened.

    torch gives a notice about the mode itself when it is set for the first time: with warnings as errors it would leave
    the mode on for all tests that follow.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
