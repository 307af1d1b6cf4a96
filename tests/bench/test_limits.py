"""On a CPU a step that needs more than is free is an error, not a killed process."""

import os
import subprocess
import sys

import pytest
import torch

from bdia.bench.limits import free_bytes, memory_ceiling

BEYOND = """
import torch
from bdia.bench.limits import free_bytes, memory_ceiling
with memory_ceiling(torch.device("cpu")):
    torch.ones(1000)
    torch.empty(free_bytes() + 2**28, dtype=torch.uint8)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the ceiling is Linux's")
def test_beyond_what_is_free_an_allocation_is_refused():
    done = subprocess.run([sys.executable, "-c", BEYOND], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "can't allocate memory" in done.stderr


def test_the_ceiling_is_taken_away_again():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_ceiling(torch.device("cpu")):
        pass
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert free_bytes() is None or free_bytes() > 0
