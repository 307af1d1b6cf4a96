"""Checkpoints in shares: whole or not there, in two generations, read by one process; two gloo processes below."""

import os
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

from bdia import InvalidValueError
from bdia.build import check_run, compose
from bdia.models.gpt2_weights import read_weights
from bdia.models.shares import METADATA, SUMS, damage, read_whole
from bdia.train import shares
from bdia.train.checkpoints import LAST, PREVIOUS, CheckpointError, WholeCheckpointIO, newest_whole
from bdia.train.shares import save_shares
from helpers.training_helpers import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def trained():
    """A model and an optimizer that has stepped, with two groups."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW([{"params": layer.parameters(), "lr": 0.1 + n} for n, layer in enumerate(net)])
    net(torch.ones(3)).sum().backward()
    optimizer.step()
    return net, optimizer


def content(number=0):
    net, optimizer = trained()
    return {
        "state_dict": get_model_state_dict(net),
        "optimizer_states": [get_optimizer_state_dict(net, optimizer)],
        "loops": {"seen": [1, 2]},
        "number": number,
    }


def number(path):
    return WholeCheckpointIO().load_checkpoint(path, weights_only=True)["number"]


def test_one_process_reads_what_it_would_have_written_itself(tmp_path):
    net, optimizer = trained()
    save_shares(content(), tmp_path / LAST)
    found = read_whole(tmp_path / LAST)
    assert found["loops"] == {"seen": [1, 2]}
    assert_same(found["state_dict"], dict(net.state_dict()))
    (state,), wanted = found["optimizer_states"], optimizer.state_dict()
    assert_same(state["state"], wanted["state"])
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3]]
    assert [group["lr"] for group in state["param_groups"]] == [0.1, 1.1]
    optimizer.load_state_dict(state)
    assert read_weights(tmp_path / LAST)["state_dict"].keys() == net.state_dict().keys()


def test_the_last_checkpoint_is_kept_in_two_generations_in_whichever_form(tmp_path):
    writers = [save_shares, save_shares, save_shares, WholeCheckpointIO().save_checkpoint]
    for n, write in enumerate([*writers, writers[-1], save_shares]):
        write({**content(n), "state_dict": {"weight": torch.zeros(3)}}, tmp_path / LAST)
        assert number(tmp_path / LAST) == n
        assert n == 0 or number(tmp_path / PREVIOUS) == n - 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ([LAST] if n == 0 else [LAST, PREVIOUS])


@pytest.mark.parametrize("point", ["shares", "fsync", "replace", "sums"])
def test_a_failure_at_any_point_of_writing_leaves_a_whole_checkpoint_behind(tmp_path, monkeypatch, point):
    for n in range(2):
        save_shares(content(n), tmp_path / LAST)

    def fail(*arguments, **settings):
        raise OSError(28, "No space left on device")

    place = {"shares": (shares.dcp, "save"), "sums": (shares, "crc_of")}.get(point, (os, point))
    monkeypatch.setattr(*place, fail)
    with pytest.raises(CheckpointError, match=r"last\.ckpt can't be written \(.*No space left.*give the same command"):
        save_shares(content(2), tmp_path / LAST)
    monkeypatch.undo()
    assert number(newest_whole(tmp_path, finished=False)) == 1
    assert not [path for path in tmp_path.iterdir() if path.name not in (LAST, PREVIOUS)]


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "no sums"])
def test_a_damaged_share_is_named_and_the_older_checkpoint_is_taken(tmp_path, harm):
    for n in range(2):
        save_shares(content(n), tmp_path / LAST)
    (share,) = (tmp_path / LAST).glob("*.distcp")
    data = bytearray(share.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flip": lambda: share.write_bytes(data),
        "cut": lambda: share.write_bytes(data[:-9]),
        "lose": share.unlink,
        "no sums": (tmp_path / LAST / SUMS).unlink,
    }[harm]()
    assert (SUMS if harm == "no sums" else share.name) in damage(tmp_path / LAST)
    found = newest_whole(tmp_path, finished=False)
    assert found.name == PREVIOUS and number(found) == 0


class Calls:
    def __reduce__(self):
        return os.system, ("touch called",)


def test_a_checkpoint_of_someone_else_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_shares(content(), tmp_path / LAST)
    (tmp_path / LAST / METADATA).write_bytes(pickle.dumps(Calls()))
    with pytest.raises(InvalidValueError, match=r"cannot be read as weights \(UnpicklingError\)"):
        read_weights(tmp_path / LAST)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("choices", ["", "trainer.devices=2 trainer.strategy=ddp"])
def test_shares_need_a_model_that_is_shared_out(choices):
    with pytest.raises(InvalidValueError, match=r"checkpoint\.sharded=true with trainer\.strategy=.*fsdp2"):
        check_run(compose([*choices.split(), "callbacks.checkpoint.sharded=true"]))
