"""Tensor and context parallelism of a converted model with two gloo processes: the blocks of docs/trainers.md."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import bdia
from bdia.reversible import BdiaStack
from helpers.processes import RANKS, free_port, join
from helpers.reversible_helpers import make_blocks, make_tokens
from helpers.trainer_helpers import LAST, WORDS, batch, inputs_alive, llama, run_block

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
TOKENS, STEPS = 16, 2


def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()


def batches():
    return [batch(seed=n) for n in range(STEPS)]


def texts():
    """Token ids and, one token later, their labels."""
    for n in range(STEPS):
        ids = torch.randint(1, WORDS, (2, TOKENS + 1), generator=torch.Generator().manual_seed(n))
        yield ids[:, :-1], ids[:, 1:]


def parts_of(rank, ranks):
    """Each text's tokens of one process, with their positions; and their labels."""
    own = torch.arange(TOKENS).chunk(ranks)[rank]
    return [({"input_ids": ids[:, own], "position_ids": own[None]}, labels[:, own]) for ids, labels in texts()]


def tensor_parallel(backward, rank):
    model = llama()
    names = {"layers": model.model.layers, "mesh": init_device_mesh("cpu", (RANKS,)), "batches": batches()}
    run_block("Tensor parallelism", backward, model=model, **names)
    gradients = [whole(p.grad) for p in model.parameters()]
    local = model.model.layers[0].mlp.up_proj.weight.to_local().shape
    return gradients, inputs_alive(model, batch()), tuple(local)


def context_parallel(backward, rank):
    model = llama()
    run_block("Context parallelism", backward, model=model, parts=parts_of(rank, RANKS))
    return [p.grad.clone() for p in model.parameters()], None, None


KINDS = {"tensor": tensor_parallel, "context": context_parallel}


def work(rank, port, folder):
    join(rank, port)
    for kind, run in KINDS.items():
        for backward in ("reversible", "stored"):
            torch.save(run(backward, rank), f"{folder}/{kind}-{backward}-{rank}.pt")
    stack = BdiaStack(make_blocks(3))
    stream = distribute_tensor(make_tokens(shape=(2, 6, 16)).detach(), init_device_mesh("cpu", (RANKS,)), [Shard(1)])
    try:
        stack(stream)
        said = "nothing"
    except bdia.UnsupportedError as error:
        said = str(error)
    torch.save(said, f"{folder}/said-{rank}.pt")
    dist.destroy_process_group()


def in_one_process(kind):
    model = llama()
    bdia.convert(model, backward="stored")
    torch.manual_seed(0)
    if kind == "tensor":
        for inputs in batches():
            model(**inputs).loss.backward()
    else:
        for part, labels in parts_of(0, 1):
            logits = model(**part, use_cache=False).logits
            F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    return [p.grad for p in model.parameters()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left behind."""
    found = tmp_path_factory.mktemp("parallel")
    mp.spawn(work, args=(free_port(), str(found)), nprocs=RANKS)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_reversibly_with_the_gradients_of_stored_and_of_one_process(kind, folder):
    (found, *_), (wanted, *_) = (torch.load(folder / f"{kind}-{mode}-0.pt") for mode in ("reversible", "stored"))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    others, *_ = torch.load(folder / f"{kind}-reversible-1.pt")
    assert all(torch.equal(a, b) for a, b in zip(found, others, strict=True))
    for a, b in zip(found, in_one_process(kind), strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6 * b.abs().max().item())  # sums in another order


def test_tensor_parallel_layers_are_shared_out_and_free_their_inputs(folder):
    for rank in range(RANKS):
        _, alive, local = torch.load(folder / f"tensor-reversible-{rank}.pt")
        assert alive <= LAST and local == (12, 16)  # of 24 rows
        assert torch.load(folder / f"tensor-stored-{rank}.pt")[1] > LAST


def test_a_stream_that_is_shared_out_is_refused_by_name(folder):
    for rank in range(RANKS):
        assert "residual stream is a DTensor" in torch.load(folder / f"said-{rank}.pt")
