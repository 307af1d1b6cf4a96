"""Every error that says memory ran out is known, and no other; no torch is needed for that."""

import subprocess
import sys

import pytest
import torch

from bdia.results.record import status_of
from bdia.reversible.engine.memory_errors import out_of_memory


class ArrayError(MemoryError):
    """As NumPy's."""


class OurOwn(torch.OutOfMemoryError):
    """A library's own kind."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), ArrayError(), torch.OutOfMemoryError("full"), OurOwn("full"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)  # fmt: skip
def test_memory_that_ran_out_is_known_to_the_engine_and_to_the_records(error):
    assert out_of_memory(error) and status_of(error) == "oom"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("memory=0"), KeyError("x")])
def test_another_error_is_a_failure(error):
    assert not out_of_memory(error) and status_of(error) == "failed"


def test_the_module_is_read_without_torch():
    code = "import sys, bdia.reversible.engine.memory_errors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
