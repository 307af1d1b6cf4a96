"""One thread: the tensors are tiny, and threads that wait for each other on a busy machine cost ten times the work."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Run this folder's tests on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
