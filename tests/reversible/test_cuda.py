"""What only a GPU can show: the same exactness on CUDA kernels, and no synchronisation per block."""

import pytest
import torch
from reversible_helpers import assert_bit_equal, gradients, make_blocks, make_tokens

from bdia.reversible import BdiaStack, CheckpointStack, GridOverflowError, RevVitStack, StandardStack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(depth, dropout=0.0, width=None):
    options = {} if width is None else {"width": width}
    return [block.cuda() for block in make_blocks(depth, dropout, **options)]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("keep", [0, 1])
def test_gradients_on_cuda_equal_the_stored_ones_bit_for_bit(dropout, keep):
    blocks, x = on_gpu(5, dropout), make_tokens().detach().cuda().requires_grad_()
    wanted = gradients(BdiaStack(blocks, backward="stored"), x)
    assert_bit_equal(gradients(BdiaStack(blocks, keep=keep), x), wanted)


@pytest.mark.parametrize("stack", [BdiaStack, lambda blocks: RevVitStack(blocks, 9)])
def test_forward_and_backward_wait_for_the_device_at_the_end_only(stack):
    stack, x = stack(on_gpu(5)), make_tokens().detach().cuda()
    stack(x).sum().backward()  # copies the law's tables once
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = stack(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    out.sum().backward()


def test_an_overflow_on_cuda_is_raised_by_backward():
    stack, x = BdiaStack(on_gpu(3), bits=14), make_tokens().detach().cuda() * 1e4
    out = stack(x)
    with pytest.raises(GridOverflowError, match="block 0"):
        out.sum().backward()


def test_bdia_peaks_below_checkpointing_on_cuda_in_a_deep_stack():
    def peak(stack):
        model, x = stack(on_gpu(24, width=64)), torch.randn(64, 256, 64, device="cuda")
        model(x).sum().backward()
        torch.cuda.reset_peak_memory_stats()
        model(x).sum().backward()
        return torch.cuda.max_memory_allocated()

    assert peak(BdiaStack) < peak(CheckpointStack) < peak(StandardStack)
