"""A plan under FSDP2: by hand, and against two processes."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from bdia import InvalidValueError
from bdia.data.ranks import local_part
from bdia.profiling.hf_model import WAYS, HfSteps, read_config
from bdia.profiling.hf_plan import HfPlanner
from bdia.profiling.moments import Moments
from bdia.profiling.sharded import Shards
from bdia.profiling.storage_meter import StorageMeter
from helpers.processes import RANKS, free_port, join

TOTALS = {"parameters": 40, "optimizer": 80, "other": 3, "held": 7, "flops": 1}
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 300, "num_hidden_layers": 12}
SIZES |= {"intermediate_size": 192, "num_key_value_heads": 2}
TOKENS = (64, 512)


def test_a_share_of_the_state_and_the_weights_in_use_are_on_each_device():
    # after the forward 10 bytes of activations; then 20 and 8 of gradients; in the update 4 of temporaries
    moments = Moments("abc", [133, 151, 167], [0, 8, 40], [0, 1, 2], TOTALS)
    found = Shards(4, outside=5, layer=6).on_one(moments)
    assert found.alive == [10 + 30 + 3 + (5 + 2 * 6), 20 + 30 + 2 + 3 + 2 * (5 + 2 * 6), 41 + 3]
    assert found.gradients == [0, 2, 10]
    cost = found.cost()
    assert (cost.peak, cost.parameters, cost.optimizer, cost.gradients) == (89, 10, 20, 2)
    assert cost.activations == 20 + 2 * (5 + 2 * 6)


def test_one_device_holds_what_there_is():
    moments = Moments("a", [133], [0], [0], TOTALS)
    assert Shards(1, 5, 6).on_one(moments) is moments


def test_the_sizes_are_the_models():
    model = nn.ModuleDict({"words": nn.Embedding(10, 2), "layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 3)])})
    assert Shards.of(8, model) == Shards(8, outside=80, layer=36)
    with pytest.raises(InvalidValueError, match=r"devices=0: wanted at least 1; set devices"):
        Shards.of(0, model)
    with pytest.raises(InvalidValueError, match=r"Linear: wanted a model with its layers in a ModuleList"):
        Shards.of(1, nn.Linear(2, 2))


def steps():
    return HfSteps(
        read_config("llama", SIZES), partial(torch.optim.AdamW, foreach=False), 2, loss_chunk=None, device="cpu"
    )


def sharded_step(way, tokens):
    """Return a step of one process under FSDP2, and what exists before it."""
    from torch.distributed.fsdp import fully_shard

    model, _, (ids,), _, _ = steps().step(way, tokens, 12)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)

    def run():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    run()
    state = [value for values in optimizer.state.values() for value in values.values()]
    return run, [*map(local_part, [*model.parameters(), *state]), *model.buffers(), ids]


def measure(rank, port, folder):
    join(rank, port)
    peaks = {}
    for way in WAYS:
        for tokens in TOKENS:
            run, known = sharded_step(way, tokens)
            with StorageMeter(known, []) as meter:
                run()
            peaks[way.name, tokens] = meter.peak
    torch.save(peaks, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_planned_peak_under_fsdp2_is_within_a_tenth_of_the_measured_one(tmp_path):
    mp.spawn(measure, args=(free_port(), str(tmp_path)), nprocs=RANKS)
    planner = HfPlanner(steps(), devices=RANKS)
    for rank in range(RANKS):
        for (name, tokens), measured in torch.load(tmp_path / f"{rank}.pt").items():
            way = next(way for way in WAYS if way.name == name)
            assert measured <= planner.cost(way, tokens).peak <= 1.1 * measured, (name, tokens)
