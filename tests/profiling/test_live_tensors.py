"""What is alive at the peak has an owner and a name, and its bytes are those of the plain meter."""

import torch

from bdia.profiling.live_tensors import SUM, LiveTensors, Origin
from bdia.profiling.storage_meter import StorageMeter
from bdia.reversible import BdiaStack
from helpers.reversible_helpers import make_blocks


def at_the_peak(meter, stack, x):
    for parameter in stack.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    before = meter.total()
    with meter:
        stack(x).square().mean().backward()
    return meter.peak - before, meter.owned_at_peak


def test_every_byte_at_the_peak_has_an_origin_and_the_peak_is_the_plain_meters():
    stack, x = BdiaStack(make_blocks(4, width=64), keep=0), torch.randn(2, 64, 64)
    known = [*stack.parameters(), x]
    plain, _ = at_the_peak(StorageMeter(known, []), stack, x)
    total, origins = at_the_peak(LiveTensors(stack, known), stack, x)
    assert total == plain == sum(origins.values())
    assert 0 <= origins[Origin("", "residual stream", "forward")] - 2 * x.nbytes < 100  # and the sums of their bits
    assert origins[Origin("", "packed residues", "forward")] > 0
    assert any(origin.owner.endswith(".attn.qkv") and origin.when == "recomputation" for origin in origins)


def test_sums_of_weights_gradients_over_parts_are_not_counted():
    stack, x = BdiaStack(make_blocks(3, width=64), keep=0, tile={"mlp": 4}), torch.randn(2, 64, 64)
    known = [*stack.parameters(), x]
    plain, _ = at_the_peak(StorageMeter(known, []), stack, x)
    total, origins = at_the_peak(LiveTensors(stack, known), stack, x)
    assert total <= plain and not any(origin.what == SUM for origin in origins)
