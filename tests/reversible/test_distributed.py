"""DistributedDataParallel and FSDP2 with two gloo processes: the gradients of one process."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bdia
from bdia.reversible import BdiaStack, CheckpointStack
from helpers.processes import RANKS, free_port, join
from helpers.reversible_helpers import loss_of, make_blocks, make_tokens
from helpers.trainer_helpers import LAST, WORDS, batch, inputs_alive, llama, run_block

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
DEPTH = 4


def sample_of(rank):
    return make_tokens(seed=rank).detach()


def stack_of(backward):
    return BdiaStack(make_blocks(DEPTH, 0.1), backward=backward)


def one_process(backward, steps):
    """Mean gradient over the ranks' batches, each with its rank's random numbers."""
    stack = stack_of(backward)
    totals = [torch.zeros_like(p) for p in stack.parameters()]
    for rank in range(RANKS):
        for parameter in stack.parameters():
            parameter.grad = None
        torch.manual_seed(rank)
        for _ in range(steps):
            loss_of(stack(sample_of(rank))).backward()
        for total, parameter in zip(totals, stack.parameters(), strict=True):
            total += parameter.grad
    return [total / RANKS for total in totals]


def wrap(kind, stack):
    if kind == "ddp":
        return DistributedDataParallel(stack)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    for block in stack:
        fully_shard(block, mesh=mesh)
    return fully_shard(stack, mesh=mesh)


def work(rank, port, kind, backward, steps, folder):
    join(rank, port)
    stack = stack_of(backward)
    model = wrap(kind, stack)
    torch.manual_seed(rank)
    for _ in range(steps):
        loss_of(model(sample_of(rank))).backward()
    grads = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in stack.parameters()]
    torch.save(grads, os.path.join(folder, f"{backward}{rank}.pt"))
    dist.destroy_process_group()


def launch(kind, backward, steps, folder):
    mp.spawn(work, args=(free_port(), kind, backward, steps, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{backward}{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("steps", [1, 2])
def test_two_processes_train_reversibly_with_the_gradients_of_stored_and_of_one_process(kind, steps, tmp_path):
    found, wanted = (launch(kind, mode, steps, tmp_path) for mode in ("reversible", "stored"))
    for ranks in zip(*found, *wanted, strict=True):
        assert all(torch.equal(ranks[0], other) for other in ranks[1:])
    for a, b in zip(found[0], one_process("stored", steps), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # the ranks' sum is taken in another order
    assert all(g.abs().sum() > 0 for g in found[0])


def count_exchanges(rank, port, folder):
    from torch.distributed.tensor.debug import CommDebugMode

    join(rank, port)
    counts = []
    for make in (CheckpointStack, BdiaStack, lambda blocks: BdiaStack(blocks, keep=0)):
        model = wrap("fsdp2", make(make_blocks(DEPTH)))
        with CommDebugMode() as mode:
            loss_of(model(sample_of(rank))).backward()
        counts.append({str(name): count for name, count in mode.get_comm_counts().items()})
    torch.save(counts, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_rebuilding_exchanges_nothing_more_under_fsdp2(tmp_path):
    mp.spawn(count_exchanges, args=(free_port(), str(tmp_path)), nprocs=RANKS)
    for rank in range(RANKS):
        for counts in torch.load(tmp_path / f"{rank}.pt"):  # a layer's weights twice, its gradients once
            assert counts == {"c10d._allgather_base_": 2 * DEPTH, "c10d._reduce_scatter_base_": DEPTH}


def with_policy(backward, casts_inputs, rank):
    """Gradients under FSDP2's own policy: layers' weights gathered in bf16, their norms' in float32."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh, stack, seen = init_device_mesh("cpu", (RANKS,)), stack_of(backward), set()
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=casts_inputs)
    for block in stack:
        block.mlp[0].register_forward_pre_hook(lambda layer, _: seen.add(layer.weight.dtype))
        if not casts_inputs:  # torch has no norm of a float32 stream with bf16 weights on a CPU
            fully_shard(block.norm1, mesh=mesh)
            fully_shard(block.norm2, mesh=mesh)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(stack, mesh=mesh)
    torch.manual_seed(rank)
    with torch.autocast("cpu", torch.bfloat16):
        out = stack(sample_of(rank))
    loss_of(out).backward()
    return [whole(p.grad) for p in stack.parameters()], seen, out.dtype


def work_policy(rank, port, folder):
    join(rank, port)
    for casts_inputs in (True, False):
        found = {backward: with_policy(backward, casts_inputs, rank) for backward in ("reversible", "stored")}
        torch.save(found, f"{folder}/{casts_inputs}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_under_fsdp2_s_bf16_policy_reversible_gradients_equal_stored_ones(tmp_path):
    mp.spawn(work_policy, args=(free_port(), str(tmp_path)), nprocs=RANKS)
    for casts_inputs in (True, False):
        for rank in range(RANKS):
            kinds = torch.load(tmp_path / f"{casts_inputs}-{rank}.pt", weights_only=False)
            (found, seen, dtype), (wanted, _, _) = kinds["reversible"], kinds["stored"]
            assert seen == {torch.bfloat16} and dtype == torch.float32
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            assert all(g.abs().sum() > 0 for g in wanted)


# --- converted models: the blocks of docs/trainers.md ---

PAGE = {"ddp": "DistributedDataParallel", "fsdp2": "FSDP2"}


class Decoder(nn.Module):
    """A decoder that loops over its layers, called as those of transformers are."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(make_blocks(DEPTH, dropout=0.1))
        self.words, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, WORDS)

    def forward(self, input_ids, labels):
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(x)
        loss = nn.functional.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())
        return type("Output", (), {"loss": loss})


def own_decoder():
    model = Decoder()
    return model, model.layers


def library_decoder():
    model = llama(DEPTH)
    return model, model.model.layers


def compiled_decoder():
    model = llama(DEPTH)
    for layer in model.model.layers:
        layer.compile(backend="aot_eager")
    return model, model.model.layers


def batches_of(rank, steps=2):
    return [batch(seed=RANKS * n + rank) for n in range(steps)]


def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()


def as_on_the_page(kind, backward, make, rank):
    """Run a block of the page; return the wrapped model and the report."""
    model, layers = make()
    names = run_block(PAGE[kind], backward, seed=rank, model=model, layers=layers, batches=batches_of(rank))
    return names["model"], names["report"]


def wrapped_first(kind, backward, make, rank):
    """The same where the model is wrapped before it is converted."""
    model, layers = make()
    if kind == "ddp":
        model = DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for module in (*layers, model):
            fully_shard(module)
    report = bdia.convert(model, backward=backward)
    torch.manual_seed(rank)
    for inputs in batches_of(rank):
        model(**inputs).loss.backward()
    return model, report


RUNS = {
    "reversible": (as_on_the_page, "reversible"),
    "stored": (as_on_the_page, "stored"),
    "wrapped first": (wrapped_first, "reversible"),
}


def work_converted(rank, port, make, folder):
    join(rank, port)
    for kind in PAGE:
        for name, (run, backward) in RUNS.items():
            model, report = run(kind, backward, make, rank)
            gradients = [whole(p.grad) for p in model.parameters()]
            sharded = any(hasattr(p, "full_tensor") for p in model.parameters())
            facts = gradients, sharded, min(report.freed_bytes.values()), inputs_alive(model, batch(seed=rank))
            torch.save(facts, f"{folder}/{kind}-{name}-{rank}.pt")
    dist.destroy_process_group()


def converted_in_one_process(make):
    """Mean gradient over the ranks' batches, without a wrapper."""
    totals = None
    for rank in range(RANKS):
        model, _ = make()
        bdia.convert(model, backward="stored")
        torch.manual_seed(rank)
        for inputs in batches_of(rank):
            model(**inputs).loss.backward()
        gradients = [p.grad / RANKS for p in model.parameters()]
        totals = gradients if totals is None else [a + b for a, b in zip(totals, gradients, strict=True)]
    return totals


@pytest.mark.parametrize(
    "make",
    [own_decoder, *(pytest.param(make, marks=pytest.mark.slow) for make in (library_decoder, compiled_decoder))],
)
def test_a_converted_model_trains_in_two_processes_with_the_gradients_of_one(make, tmp_path):
    mp.spawn(work_converted, args=(free_port(), make, str(tmp_path)), nprocs=RANKS)
    one = converted_in_one_process(make)
    for kind in PAGE:
        wanted = torch.load(tmp_path / f"{kind}-stored-0.pt")[0]
        assert all(g.abs().sum() > 0 for g in wanted)
        for a, b in zip(wanted, one, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the ranks' sum is taken in another order
        for name in RUNS:
            for rank in range(RANKS):
                found, sharded, freed, alive = torch.load(tmp_path / f"{kind}-{name}-{rank}.pt")
                assert sharded == (kind == "fsdp2")
                assert (freed > 0) == (alive <= LAST) == (name != "stored")
                assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
