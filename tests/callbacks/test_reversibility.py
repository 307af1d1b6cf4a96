"""ReversibilityCheck: 0 on the grid, an honest error off it, and verification as it was before."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from bdia.train.job import train


class Verify(Callback):
    """`verify` of the stack before and after every batch, as the other callbacks leave it."""

    def __init__(self):
        self.during, self.after = [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.during.append(pl_module.net.blocks.verify)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append(pl_module.net.blocks.verify)


@pytest.mark.parametrize("stack", [["stack=bdia"], ["stack=revvit", "stack.grid_bits=9"]])
def test_streams_on_the_grid_come_back_without_error(tiny, stack):
    record = train(tiny("trainer.max_epochs=1", *stack))
    assert [row.value for row in record.curve("reconstruction_error")] == [0]


@pytest.mark.parametrize("stack", [["stack=revvit"], ["stack=bdia", "stack.bits=null"]])
def test_streams_off_the_grid_come_back_with_a_small_error(tiny, stack):
    record = train(tiny("trainer.max_epochs=1", "model.net.depth=6", *stack))
    assert 0 < record.final("reconstruction_error") < 1e-3


def test_a_stack_with_nothing_to_rebuild_has_no_row(tiny):
    assert train(tiny("trainer.max_epochs=1", "stack=standard")).curve("reconstruction_error") == []


def test_verification_is_on_for_one_batch_an_epoch_and_then_as_before(tiny, add_callbacks):
    spy = Verify()
    add_callbacks(spy)
    record = train(tiny("trainer.max_epochs=2", "stack=revvit"))
    assert spy.during == [False, False, True, False, False] * 2
    assert spy.after == [False] * 10
    errors = record.curve("reconstruction_error")
    assert [row.step for row in errors] == [3, 8] and errors[0].value != errors[1].value


def test_a_grid_that_was_chosen_is_in_the_record_and_in_the_checkpoint(tiny):
    cfg = tiny("trainer.max_epochs=1", "stack=bdia", "stack.bits=auto")
    record = train(cfg)
    bits = record.final("grid_bits")
    assert 9 < bits <= 20
    (checkpoint,) = Path(cfg.paths.runs).rglob("final.ckpt")
    (state,) = torch.load(checkpoint, weights_only=False)["reversible"].values()
    assert state["bits"] == bits and not state["chooses_bits"] and state["largest"] < 2.0 ** (24 - bits)


def test_a_grid_that_was_given_has_no_row(tiny):
    assert train(tiny("trainer.max_epochs=1", "stack=bdia")).curve("grid_bits") == []
