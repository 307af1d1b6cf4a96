"""What is kept inside the recomputation: any set of blocks, chosen operations, submodules once more. Never a bit."""

import contextlib
import gc
import itertools

import pytest
import torch

from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack, TwoPoint
from bdia.reversible.engine.submodules import changed_submodules
from helpers.reversible_helpers import (
    HALF,
    D,
    LiveStorages,
    PeakStorages,
    assert_bit_equal,
    gradients,
    loss_of,
    make_blocks,
    make_tokens,
)

# Larger than the helpers' default, so that a stream outweighs the random states that checkpointing keeps.
SHAPE, WIDE = (4, 64, 64), 64
KEPT = [[0], [4], [0, 4], [1, 3], [0, 1], [2], [1, 2, 3], [0, 2, 4], [0, 1, 2, 3, 4], []]
INSIDE = [
    {"save": ["attention"]},
    {"save": ["matmul"]},
    {"save": ["attention", "matmul"]},
    {"nested": ["attn"]},
    {"nested": ["attn", "mlp", "attn"]},
    {"save": ["attention"], "nested": ["mlp"]},
]


def compare(dropout=0.1, depth=5, autocast=None, **settings):
    """Assert that training with the settings and stored training agree in output and every gradient."""
    blocks, x = make_blocks(depth, dropout), make_tokens()
    wanted = gradients(BdiaStack(blocks, HALF, backward="stored"), x, autocast=autocast)
    assert_bit_equal(gradients(BdiaStack(blocks, HALF, **settings), x, autocast=autocast), wanted)


@pytest.mark.parametrize("keep", KEPT, ids=str)
@pytest.mark.parametrize("law", ["1/2", "3/5"])
def test_any_set_of_kept_blocks_gives_the_stored_gradients_bit_for_bit(keep, law):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    wanted = gradients(BdiaStack(blocks, TwoPoint(law), backward="stored"), x, steps=2)
    assert_bit_equal(gradients(BdiaStack(blocks, TwoPoint(law), keep=keep), x, steps=2), wanted)


@pytest.mark.parametrize("keep", KEPT, ids=str)
def test_any_set_of_kept_blocks_of_the_baselines_gives_their_gradients(keep):
    blocks, x = make_blocks(5, 0.1), make_tokens()
    standard, revvit = gradients(StandardStack(blocks), x), gradients(RevVitStack(blocks, grid_bits=9), x)
    assert_bit_equal(gradients(CheckpointStack(blocks, keep), x), standard)
    assert_bit_equal(gradients(RevVitStack(blocks, grid_bits=9, keep=keep), x), revvit)


@pytest.mark.parametrize("frozen", [1, 2, 4])
@pytest.mark.parametrize("keep", [[0], [2], [1, 3]], ids=str)
def test_kept_blocks_among_frozen_ones_change_no_gradient(frozen, keep):
    blocks, x = make_blocks(5, 0.1), make_tokens().detach()
    for block in blocks[:frozen]:
        block.requires_grad_(False)
    wanted = gradients(BdiaStack(blocks, HALF, backward="stored"), x)
    assert_bit_equal(gradients(BdiaStack(blocks, HALF, keep=keep), x), wanted)


@pytest.mark.parametrize("inside", INSIDE, ids=str)
@pytest.mark.parametrize("keep", [0, 1, [1]], ids=str)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_saved_operations_and_nested_checkpoints_change_no_bit(inside, keep, autocast):
    compare(keep=keep, autocast=autocast, **inside)


@pytest.mark.parametrize("inside", INSIDE, ids=str)
def test_saved_operations_and_nested_checkpoints_change_no_bit_of_checkpointing(inside):
    blocks, x = make_blocks(4, 0.1), make_tokens()
    assert_bit_equal(gradients(CheckpointStack(blocks, **inside), x), gradients(StandardStack(blocks), x))


class CountOperations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts calls of torch's operators by name."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] = self.calls.get(function.overloadpacket.__name__, 0) + 1
        return function(*args, **(kwargs or {}))


FUSED = "_scaled_dot_product_flash_attention_for_cpu"


def attention_is_fused():
    """Whether attention in these blocks is one operation, which `save` can keep; torch 2.11 takes it apart here."""
    (block,) = make_blocks(1)
    with CountOperations() as counted:
        block(make_tokens())
    return FUSED in counted.calls


needs_fused_attention = pytest.mark.skipif(not attention_is_fused(), reason="this torch takes attention apart")


def operations(stack):
    """How often a step calls matrix products in a layer, and attention, forward."""
    x = make_tokens()
    with CountOperations() as counted:
        loss_of(stack(x)).backward()
    return counted.calls["addmm"], counted.calls[FUSED]


@needs_fused_attention
def test_a_saved_operation_is_not_run_again():
    blocks = make_blocks(5)  # four linear layers and one attention each
    assert operations(StandardStack(blocks)) == (20, 5)
    # Checkpointing stops when it has what backward needs: before the last layer, whose output only an inverse wants.
    for stack, again in ((BdiaStack, 4), (CheckpointStack, 3)):
        assert operations(stack(blocks, keep=1)) == (20 + 4 * again, 9)
        assert operations(stack(blocks, keep=1, save=["attention"])) == (20 + 4 * again, 5)
        assert operations(stack(blocks, keep=1, save=["attention", "matmul"])) == (20, 5)


@needs_fused_attention
def test_a_nested_submodule_is_run_once_more():
    blocks = make_blocks(5)
    plain, nested = (operations(BdiaStack(blocks, keep=1, nested=names)) for names in ([], ["attn"]))
    assert nested == (plain[0] + 4, plain[1] + 4)  # up to the attention's last layer, which backward does not need


def held(stack):
    """Bytes alive between forward and backward, those of the dispatcher's tensors."""
    x = torch.zeros(SHAPE)
    with LiveStorages(stack, x) as live:
        out = stack(x)
        gc.collect()
        total = live.total()
    del out
    return total


def peak(stack):
    """Largest number of bytes alive in a forward and backward, parameters left out."""
    x = torch.zeros(SHAPE)
    for _ in range(2):  # gradients exist in the second
        with PeakStorages(stack, x) as live:
            loss_of(stack(x)).backward()
    return live.peak


def test_held_bytes_grow_by_a_block_for_every_block_kept():
    blocks = make_blocks(6, width=WIDE)
    for stack in (BdiaStack, CheckpointStack):
        sizes = [held(stack(blocks, keep=keep)) for keep in range(7)]
        steps = [after - before for before, after in itertools.pairwise(sizes)]
        assert all(step > 5 * torch.Size(SHAPE).numel() * 4 for step in steps)
    assert held(BdiaStack(blocks, keep=[1, 3])) >= held(BdiaStack(blocks, keep=2))


@needs_fused_attention
def test_saving_costs_memory_and_nesting_saves_it():
    blocks = make_blocks(6, width=WIDE)
    plain = BdiaStack(blocks, keep=0)
    assert held(plain) < held(BdiaStack(blocks, keep=0, save=["attention"]))
    assert held(BdiaStack(blocks, keep=0, save=["attention"])) < held(BdiaStack(blocks, keep=0, save=["matmul"]))
    assert peak(BdiaStack(blocks, keep=0, nested=["attn", "mlp"])) < peak(plain)


def test_nothing_is_left_after_the_backward_with_kept_blocks_anywhere():
    blocks = make_blocks(6, width=WIDE)
    for keep in ([1], [0, 3], [2, 3]):
        stack, x = BdiaStack(blocks, keep=keep, save=["attention"]), torch.zeros(SHAPE)
        with LiveStorages(stack, x) as live:
            loss_of(stack(x)).backward()
            gc.collect()
            assert live.total() == sum(p.grad.nbytes for p in stack.parameters())


def test_keep_can_be_changed_between_steps():
    blocks, x = make_blocks(5, 0.1), make_tokens()
    stack = BdiaStack(blocks, HALF)
    first = gradients(stack, x)
    stack.keep = [0, 2]
    assert_bit_equal(gradients(stack, x), first)


def test_nested_checkpoints_leave_the_modules_as_they_were():
    (block,) = make_blocks(1)
    own = block.mlp.forward = lambda x: x  # a forward of the instance, as some libraries set it
    with contextlib.suppress(ZeroDivisionError), changed_submodules(block, ["attn", "mlp"]):
        assert "forward" in block.attn.__dict__
        _ = 1 / 0
    assert "forward" not in block.attn.__dict__ and block.mlp.forward is own


@pytest.mark.parametrize("stack", [BdiaStack, CheckpointStack])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": -1}, r"keep=-1: wanted a number of blocks, or indices from 0 to 2; set stack\.keep"),
        ({"keep": [3]}, r"keep=\[3\]: wanted .* 0 to 2"),
        ({"keep": "1"}, r"keep='1'"),
        ({"keep": True}, r"keep=True"),
        ({"keep": [True]}, r"keep=\[True\]"),
        ({"nested": ["attn", "attn.proj"]}, r"attn\.proj lies in another of them.*stack\.nested"),
        ({"save": ["conv"]}, r"save=\['conv'\]: wanted a list of attention, matmul; set stack\.save"),
        ({"save": "matmul"}, r"save='matmul'"),
        ({"nested": ["feed"]}, r"nested=\['feed'\]: .*block 0.*'attn'.*'mlp'.*stack\.nested"),
    ],
)
def test_settings_that_name_nothing_are_refused(stack, settings, message):
    with pytest.raises(ValueError, match=message):
        stack(make_blocks(3), **settings)


@pytest.mark.parametrize("stack", [BdiaStack, CheckpointStack])
def test_training_before_the_memory_budget_was_resolved_is_refused(stack):
    budgeted = stack(make_blocks(3), memory_budget="12GiB")
    with pytest.raises(RuntimeError, match=r"memory_budget='12GiB'.*fit_to_memory.*stack\.memory_budget=null"):
        budgeted(torch.zeros(2, 3, D))
    with torch.no_grad():
        budgeted(torch.zeros(2, 3, D))
    budgeted.eval()(torch.zeros(2, 3, D))


def test_keeping_no_block_peaks_no_higher_than_keeping_the_last():
    def peak_without_output(stack):
        x = torch.zeros(SHAPE)
        with PeakStorages(stack, x) as live:
            loss_of(stack(x).mul(1.0)).backward()  # nobody holds the stack's own output any more
        return live.peak

    blocks, side_information = make_blocks(6, width=WIDE), torch.Size(SHAPE).numel() / 8
    peak_without_output(BdiaStack(blocks))  # gradients exist from here on
    none, last = (peak_without_output(BdiaStack(blocks, keep=keep)) for keep in (0, 1))
    assert none <= last + side_information
